"""Tasks for Inspect (extra `inspect`), for instance `inspect eval psychocounsel/health --model ...`.

The figures are those of `evaluation=health`, `evaluation=winrate` and `evaluation=safety`. Inspect itself asks the
model and the judges that are language models, and its viewer shows the transcripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.solver import generate
from omegaconf import OmegaConf

from psychocounsel.asking.counsellor_prompt import BUILTIN, prompt_text
from psychocounsel.data.rows import Example, Message
from psychocounsel.data.selection.select import load_split
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.data.settings import DataConfig
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.errors import UserError
from psychocounsel.evaluation.external.inspect_scorers.asked_judges import chat
from psychocounsel.evaluation.external.inspect_scorers.comparison_scorers import judged_in_both_orders, preferred
from psychocounsel.evaluation.external.inspect_scorers.reply_scorers import health_figures, safety_figures
from psychocounsel.evaluation.safety.crisis_speeches import NOT_VALIDATED, crisis_speeches
from psychocounsel.evaluation.safety.safety_cases import STRATA, stratum


@task
def health(
    data: str = "builtin:sample", part: str = "held_out", limit: int | None = None, prompt: str | None = BUILTIN
) -> Task:
    """Health of the replies' texts: unfinished ends, loops, refusals, invented turns; docs/health.md defines each figure.

    Args:
        data: preference pairs, whose prompts the model replies to: a file, a folder or a hub dataset.
        part: `held_out`, the split that training with `data` holds out; or `all`.
        limit: largest number of speeches.
        prompt: system message: builtin:counsellor, a .txt file or a text; None: no system message.
    """
    return Task(dataset=_speeches(data, part, limit, prompt), solver=generate(), scorer=health_figures())


@task
def winrate(
    against: str,
    data: str = "builtin:sample",
    part: str = "held_out",
    limit: int | None = None,
    prompt: str | None = BUILTIN,
    reward: str | None = None,
    judge: str | list[str] | None = None,
    rubric: str = "builtin:en",
) -> Task:
    """Win rate of the model's replies against the replies of a file; a tie counts half.

    Args:
        against: file with the opponent's replies (columns `prompt` and `reply`).
        data, part, limit, prompt: see `health`.
        judge: one or several language models by their Inspect names, such as `openai/NAME`; each judges both orders. None:
            the reward model judges.
        reward: reward model: a folder (RUN/model), a hub id, or builtin:tiny_reward.
        rubric: rubric that the language models judge by; takes the values of `evaluation.rubric`.
    """
    judges = [judge] if isinstance(judge, str) else judge
    if not judges and not reward:
        raise UserError("winrate: nothing judges the replies; give -T judge=openai/NAME, or -T reward=RUN/model")
    by = judged_in_both_orders(against, judges, rubric) if judges else preferred(against, str(reward))
    return Task(dataset=_speeches(data, part, limit, prompt), solver=generate(), scorer=by)


@task
def safety(
    judge: str | None = None, limit: int | None = None, prompt: str | None = BUILTIN, rubric: str = "builtin:en"
) -> Task:
    """Safety of replies to the crisis set: do they notice a risk, lead to help in time, do no harm? See docs/safety.md.

    No clinician has reviewed the crisis set. Swaps of dialect, gender and age are not part of this task.

    Args:
        judge: language model by its Inspect name, such as `openai/NAME`. None: plain checks of words, without understanding.
        limit: largest number of speeches of the crisis set, chosen by the hashes of their texts.
        prompt: see `health`.
        rubric: rubric with the safety questions that the judge answers; takes the values of `evaluation.rubric`.
    """
    system = prompt_text(prompt, "prompt", None) if prompt else None
    samples = []
    for each in crisis_speeches()[:limit]:
        about = {"speech": each.speech, **{name: stratum(each, name) for name in STRATA}}
        samples.append(_sample(each.speech, [{"role": "user", "content": each.text}], system, about))
    return Task(
        dataset=MemoryDataset(samples, name="crisis_set"),
        solver=generate(),
        scorer=safety_figures(judge, rubric),
        metadata={"warning": f"{NOT_VALIDATED}; figures hold for this set, not for clients"},
    )


def _speeches(data: str, part: str, limit: int | None, prompt: str | None) -> MemoryDataset:
    if part not in ("held_out", "all"):
        raise UserError(f"part={part}: must be held_out or all")
    config = OmegaConf.structured(DataConfig(name=Path(data).name, path=data))
    train, held_out = load_split(config, lambda line: None)
    found: dict[str, Example] = {}
    for example in [*train, *held_out] if part == "all" else held_out:
        found.setdefault(normalised(example.prompt), example)
    system = prompt_text(prompt, "prompt", None) if prompt else None
    examples = [*found.values()][:limit]
    samples = [_sample(number, each.prompt, system, {"topic": each.topic}) for number, each in enumerate(examples, 1)]
    return MemoryDataset(samples, name=Path(data).name)


def _sample(identity: int | str, prompt: list[Message], system: str | None, about: Mapping[str, str | None]) -> Sample:
    return Sample(input=chat(with_system_prompt(prompt, system)), id=identity, metadata={"prompt": prompt, **about})
