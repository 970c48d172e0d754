"""Tasks for Inspect (extra `inspect`): `inspect eval psychocounsel/health --model ...`; its viewer shows the transcripts.

Figures are those of `evaluation=health` and `evaluation=winrate`; Inspect asks the model, and judges that are language models.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    ResponseSchema,
    get_model,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, mean, metric, scorer, stderr
from inspect_ai.solver import TaskState, generate
from inspect_ai.util import JSONSchema
from omegaconf import OmegaConf

from psychocounsel.asking.answers import Outcome, outcome_of
from psychocounsel.asking.counsellor_prompt import BUILTIN, prompt_text
from psychocounsel.asking.language_model import CUT, FILTERED, TEXT, Answer, Answerer, LanguageModel
from psychocounsel.asking.refusals import is_refusal
from psychocounsel.asking.thoughts import without_thoughts
from psychocounsel.counsel.language import sure_language_of
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example, Message
from psychocounsel.data.selection.select import load_split
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.evaluation_speeches import client_words, speech_id
from psychocounsel.evaluation.contestants.reply_file import replies_of
from psychocounsel.evaluation.health.reply_health import health_of
from psychocounsel.evaluation.judging.judging import Judging
from psychocounsel.evaluation.judging.pair_prompt import PairAsk, Verdict, pair_prompt, read_verdict
from psychocounsel.evaluation.judging.verdict_rows import FORWARD, ReplyPair, verdict_row
from psychocounsel.settings.schema import DataConfig

_MISSING = "one of the replies is empty or missing"
_FIGURES = ("win_rate", "inconsistent", *PRINCIPLES)
_STOPS = {"content_filter": FILTERED, "max_tokens": CUT, "model_length": CUT}
_VERDICT_TOKENS, _RETRIES = 2048, 2  # as conf/judge and conf/evaluation/winrate.yaml have them
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
    judge: str | list[str] | None = None,
    rubric: str = "builtin:en",
) -> Task:
    """How often judges prefer the reply to that of a file; a tie counts half.

    Args:
        against: a file with the columns `prompt` and `reply`: the opponent's.
        data, part, limit, prompt: as of `health`.
        judge: language models as Inspect names them, as `openai/NAME`: each sees both orders. None: `reward` judges.
        reward: a run, a folder or a hub id with a reward model.
        rubric: what language models are told, as `evaluation.rubric`.
    """
    judges = [judge] if isinstance(judge, str) else judge
    by = judged_in_both_orders(against, judges, rubric) if judges else preferred(against, reward)
    return Task(dataset=_speeches(data, part, limit, prompt), solver=generate(), scorer=by)


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
        prompt, said, other = _both_replies(state, theirs)
        if not said or not other:
            return Score(value=math.nan, answer=said, explanation=_MISSING)
        both = [[*prompt, {"role": "assistant", "content": reply}] for reply in (said, other)]
        async with lock:
            mine, base = (float(each) for each in model.unnormalised(score_what_fits(model, both)))
        value = math.nan if math.isnan(mine - base) else 0.5 + 0.5 * ((mine > base) - (mine < base))
        return Score(value=value, answer=said, metadata={"reward": mine, "reward_against": base})

    return score


@scorer(metrics={"*": [told()]})
def judged_in_both_orders(against: str, judges: list[str], rubric: str) -> Scorer:
    """`win_rate`, the mean score of the judges as docs/winrate.md defines it; `inconsistent`, the share of judges whose orders
    contradict each other; and the win rate on each principle.

    A verdict that is missing in one order counts for nothing; without any the figures are NaN.
    """
    theirs, prompt = replies_of(Path(against), "against"), pair_prompt(rubric, False)
    models = {name: get_model(name) for name in judges}
    judging = Judging([_AskedByInspect(name=name) for name in models], prompt, 0, True)

    async def score(state: TaskState, target: Target) -> Score:
        messages, said, other = _both_replies(state, theirs)
        if not said or not other:
            return Score(value=dict.fromkeys(_FIGURES, math.nan), answer=said, explanation=_MISSING)
        speech = {"speech": speech_id(normalised(messages)), "messages": messages, "language": None, "crisis": False}
        pair = ReplyPair(speech, _reply("model", said), _reply("against", other))
        rows, answers = [], []
        for call in judging.calls([pair]):
            outcome: Outcome[Verdict | None] | str | None = call.outcome
            if call.ask is not None:
                outcome = await _verdict(models[call.judge.name], call.ask)
                answers.append(f"{call.judge.name}, {call.order}: {outcome.answer.text or outcome.outcome}")
            rows.append(verdict_row(pair, call.judge.name, call.order, outcome, prompt.version))
        return Score(value=_figures(rows), answer=said, explanation="\n\n".join(answers), metadata={"verdicts": rows})

    return score


@dataclass(kw_only=True)
class _AskedByInspect(LanguageModel):
    """A judge of which we know the name alone."""

    def open(self, key: str) -> Answerer:
        raise UserError(f"{key}: Inspect asks {self.name} itself")


def _both_replies(state: TaskState, theirs: dict[str, list[str]]) -> tuple[list[Message], str, str]:
    """The prompt, the model's reply and the opponent's; an empty text where there is none."""
    prompt: list[Message] = state.metadata["prompt"]
    said = without_thoughts(state.output.completion).strip()
    return prompt, said, theirs.get(normalised(prompt), [""])[0].strip()


def _reply(setting: str, text: str) -> dict[str, Any]:
    return {"setting": setting, "seed": 0, "length_limit": None, "sample": 0, "reply": setting, "text": text}


async def _verdict(judge: Model, ask: PairAsk) -> Outcome[Verdict | None]:
    """What came of a call; an answer that cannot be read is asked for anew, as in `evaluation=winrate`."""
    messages: list[ChatMessage] = [_ROLES[each["role"]](content=each["content"]) for each in ask.messages]
    schema = ResponseSchema(name="verdict", json_schema=JSONSchema.model_validate(ask.schema))
    for attempt in range(_RETRIES + 1):
        drawn = GenerateConfig(
            temperature=0.0, seed=ask.seed + attempt, max_tokens=_VERDICT_TOKENS, response_schema=schema
        )
        answer = _answer(await judge.generate(messages, config=drawn))
        if (outcome := outcome_of(ask, answer, read_verdict, attempt, _RETRIES)) is not None:
            return outcome
    raise AssertionError("the last attempt has an outcome")


def _answer(output: ModelOutput) -> Answer:
    return Answer(_STOPS.get(output.stop_reason, TEXT), without_thoughts(output.completion), output.model)


def _figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures of one pair by rows of both orders of each judge."""
    said: dict[str, list[tuple[int, int]]] = {name: [] for name in ("overall", *PRINCIPLES)}
    for judge in {row["judge"]: row for row in rows}:
        orders = sorted((row for row in rows if row["judge"] == judge), key=lambda row: row["order"] != FORWARD)
        for name, both in said.items():
            forward, backward = (row[name] for row in orders)
            if forward is not None and backward is not None:
                both.append((forward, backward))
    found = {name: _mean([0.5 + sum(each) / 4 for each in both]) for name, both in said.items()}
    contradicting = [float(forward * backward < 0) for forward, backward in said["overall"]]
    return {"win_rate": found.pop("overall"), "inconsistent": _mean(contradicting), **found}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
