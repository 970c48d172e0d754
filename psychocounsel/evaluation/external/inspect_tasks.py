"""Tasks for Inspect (extra `inspect`): `inspect eval psychocounsel/health --model ...`; its viewer shows the transcripts.

Figures are those of `evaluation=health`, and the win rate is that of a reward model's scores; Inspect asks the model itself.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, mean, metric, scorer, stderr
from inspect_ai.solver import TaskState, generate
from omegaconf import OmegaConf

from psychocounsel.asking.counsellor_prompt import BUILTIN, prompt_text
from psychocounsel.asking.refusals import is_refusal
from psychocounsel.asking.thoughts import without_thoughts
from psychocounsel.counsel.language import sure_language_of
from psychocounsel.data.rows import Example, Message
from psychocounsel.data.selection.select import load_split
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.evaluation_speeches import client_words
from psychocounsel.evaluation.contestants.reply_file import replies_of
from psychocounsel.evaluation.health.reply_health import health_of
from psychocounsel.settings.schema import DataConfig

_ROLES: dict[str, Any] = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


@task
def health(
    data: str = "builtin:sample", part: str = "held_out", limit: int | None = None, prompt: str | None = BUILTIN
) -> Task:
    """Whether replies are whole and varied, without loops, refusals and invented turns; docs/health.md defines each figure.

    Args:
        data: preference pairs, whose prompts are replied to: a file, a folder or a hub dataset.
        part: `held_out`, as training with `data` holds it out; or `all`.
        limit: at most this many speeches.
        prompt: the system message: builtin:counsellor, a .txt file, a text; None: none.
    """
    return Task(dataset=_speeches(data, part, limit, prompt), solver=generate(), scorer=health_figures())


@task
def winrate(
    against: str,
    data: str = "builtin:sample",
    part: str = "held_out",
    limit: int | None = None,
    prompt: str | None = BUILTIN,
    reward: str = "builtin:tiny_reward",
) -> Task:
    """How often a reward model prefers the reply to that of a file; a tie counts half.

    Args:
        against: a file with the columns `prompt` and `reply`: the opponent's.
        data, part, limit, prompt: as of `health`.
        reward: a run, a folder or a hub id with a reward model.
    """
    return Task(dataset=_speeches(data, part, limit, prompt), solver=generate(), scorer=preferred(against, reward))


def _speeches(data: str, part: str, limit: int | None, prompt: str | None) -> MemoryDataset:
    if part not in ("held_out", "all"):
        raise UserError(f"part={part}: must be held_out or all")
    config = OmegaConf.structured(DataConfig(name=Path(data).name, path=data))
    train, held_out = load_split(config, lambda line: None)
    found: dict[str, Example] = {}
    for example in [*train, *held_out] if part == "all" else held_out:
        found.setdefault(normalised(example.prompt), example)
    system = prompt_text(prompt, "prompt", None) if prompt else None
    samples = [_sample(number, each, system) for number, each in enumerate([*found.values()][:limit], 1)]
    return MemoryDataset(samples, name=Path(data).name)


def _sample(number: int, example: Example, system: str | None) -> Sample:
    messages: list[ChatMessage] = [
        _ROLES[each["role"]](content=each["content"]) for each in with_system_prompt(example.prompt, system)
    ]
    return Sample(input=messages, id=number, metadata={"prompt": example.prompt, "topic": example.topic})


@metric
def told() -> Metric:
    """The mean over replies for which a figure can be told; NaN where there is none."""

    def of(scores: list[SampleScore]) -> float:
        values = [value for each in scores if not math.isnan(value := each.score.as_float())]
        return sum(values) / len(values) if values else math.nan

    return of


@scorer(metrics={"*": [told()]})
def health_figures() -> Scorer:
    """Every figure of health, NaN where it cannot be told."""

    async def score(state: TaskState, target: Target) -> Score:
        said, stopped = without_thoughts(state.output.completion), state.output.stop_reason
        words = client_words(state.metadata["prompt"])
        refused = stopped == "content_filter" or (bool(said.strip()) and is_refusal(said))
        found = health_of(said, words, stopped == "max_tokens", refused, sure_language_of(words))
        return Score(value={name: math.nan if value is None else value for name, value in found.items()}, answer=said)

    return score


@scorer(metrics=[mean(), stderr()])
def preferred(against: str, reward: str) -> Scorer:
    """1 where the reply's reward is larger than that of the reply in `against`, 0 where it is smaller, 1/2 where they are equal.

    A speech without such a reply, an empty reply and one that is too long for the reward model are not scored.
    """
    from psychocounsel.reward.encoding import score_what_fits
    from psychocounsel.reward.local_model import LocalScorer

    theirs = replies_of(Path(against), "against")
    model, lock = LocalScorer.load(reward), asyncio.Lock()

    async def score(state: TaskState, target: Target) -> Score:
        prompt: list[Message] = state.metadata["prompt"]
        said, other = without_thoughts(state.output.completion).strip(), theirs.get(normalised(prompt), [""])[0].strip()
        if not said or not other:
            return Score(value=math.nan, answer=said, explanation="one of the replies is empty or missing")
        both = [[*prompt, {"role": "assistant", "content": reply}] for reply in (said, other)]
        async with lock:
            mine, base = (float(each) for each in model.unnormalised(score_what_fits(model, both)))
        value = math.nan if math.isnan(mine - base) else 0.5 + 0.5 * ((mine > base) - (mine < base))
        return Score(value=value, answer=said, metadata={"reward": mine, "reward_against": base})

    return score
