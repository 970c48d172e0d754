"""The keys of `psychocounsel evaluate`: the sections that each evaluation reads, and the keys of evaluations with replies."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.asking.model_groups import NO_PRICE, BudgetConfig, idle_models
from psychocounsel.data.settings import PairsConfig, idle_data, idle_without_training
from psychocounsel.evaluation.part import idle_in_part
from psychocounsel.reward.sections import idle_rewards, judge_models, scorer_sections
from psychocounsel.settings.command import NO_INTERNET, idle_keys
from psychocounsel.settings.schema import marked, option
from psychocounsel.settings.targets import build, target_class
from psychocounsel.storage.files import expanded


@dataclass
class PrintedConfig(PairsConfig):
    """The keys of every evaluation outside the config groups. `verbose` prints all tables."""

    verbose: bool = False


@dataclass
class EvaluateConfig(PrintedConfig):
    """The keys of `evaluate evaluation=reward`."""

    compare: list[Any] = option([])
    budget: BudgetConfig = field(default_factory=BudgetConfig)


@dataclass
class ReplyDrawing:
    """Sampling of replies, the same for all models."""

    temperature: float = option(0.7, at_least=0)
    top_p: float = option(1.0, above=0, at_most=1)
    max_tokens: int = option(512, at_least=1)
    seed: int = option(0, at_least=0, at_most=2**32 - 1)
    system_prompt: str | None = option("auto", path=True)


@dataclass
class ContestReplies(ReplyDrawing):
    """Replies of every contestant to each speech."""

    samples: int = option(1, at_least=1, at_most=100)
    length_limits: list[int | None] = option([None])


@dataclass
class ContestConfig(PrintedConfig):
    """The keys outside the groups `evaluation`, `contestants`, `judge` and `cluster`, which come from their `_target_`."""

    steps: list[str] | None = None
    replies: ContestReplies = field(default_factory=ContestReplies)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    crisis_to_third_parties: bool = False
    trained_on: list[str] = option([], path=True)
    shards: int = option(1, at_least=1, at_most=1000)
    share: int | None = None  # shard number of an array job, set at submission


_OF_PRIVACY = ("confidential", "allowed_hosts")  # they limit the hosts that any text is sent to
# Sections of conf/evaluate.yaml that only some evaluations read.
OPTIONAL = ("reward", "compare", "model", "against", "contestants", "judge", "personas", "client")
_OF_REPLIES = ("steps", "replies", "budget", "crisis_to_third_parties", "trained_on", "shards")


def idle_sections(evaluation: Any) -> list[str]:
    """Return the sections that an evaluation, or its class, does not read."""
    of_contests = ("model", "against", *_OF_REPLIES) if "contestants" in evaluation.sections else ()
    return [name for name in (*OPTIONAL, *_OF_REPLIES) if name not in (*evaluation.sections, *of_contests)]


def leave_out_sections(plain: DictConfig, evaluation: Any) -> None:
    """Drop the sections that the evaluation does not read."""
    with open_dict(plain):
        for name in idle_sections(evaluation):
            plain.pop(name, None)


def make_files_absolute(config: DictConfig) -> None:
    """Make the paths of an evaluation's files absolute, because jobs may start in another directory."""
    for key in _path_keys(config):
        if (value := OmegaConf.select(config, key)) is not None:
            OmegaConf.update(config, key, _absolute(value))
    for _, section in scorer_sections(config):
        if section.get("rubric") is not None:  # a language model that ranks
            section.rubric = _absolute(section.rubric)


def _path_keys(config: DictConfig) -> Iterator[str]:
    """Yield the keys that name files or folders (`option(path=...)`)."""
    evaluation = target_class(config, "evaluation")
    sections = {"": evaluation.schema, "evaluation.": evaluation, "replies.": ReplyDrawing}
    if config.get("personas") is not None:
        sections["personas."] = target_class(config, "personas")
    for prefix, section in sections.items():
        yield from (f"{prefix}{name}" for name in marked(section, "path"))


def _absolute(value: Any) -> Any:
    """Return a path, or each of several, as an absolute path if it exists; otherwise the value."""
    if OmegaConf.is_list(value):
        return [_absolute(path) for path in value]
    if OmegaConf.is_dict(value):  # an entry of `evaluation.sets`
        return {name: _absolute(each) if name in ("path", "criteria") else each for name, each in value.items()}
    with contextlib.suppress(OSError):  # the text is too long for a path
        if isinstance(value, str) and value and expanded(value).exists():
            return os.path.abspath(expanded(value))  # a link keeps its name, which names its figures
    return value


def compared_paths(plain: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yield key and path of each reward model in `compare`; None for a language model that ranks."""
    for index, section in enumerate(plain.get("compare") or []):
        for member in section.get("members") or [section]:
            yield f"compare[{index}]", member.get("path")


def idle_evaluation(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys and sections of an evaluation that have no effect, each with the reason."""
    evaluation = build(config, "evaluation")
    rankers = [section for _, section in judge_models(config)]
    contest = config.get("contestants") is not None
    if not contest and not rankers:
        yield "cluster.internet", NO_INTERNET
    of_policies = " (evaluation=winrate compares policies, evaluation=health measures one)"
    for name in idle_sections(evaluation):
        advice = of_policies if name in ("model", "against") and not contest else ""
        yield name, f"evaluation={evaluation.name} does not read it{advice}"
    yield from idle_keys("evaluation", evaluation.unused(config))
    yield from evaluation.unused_sections(config).items()
    if contest:
        yield from idle_models(config)
    elif "budget" in evaluation.sections:
        if not rankers:
            yield "budget", "compare contains no language model that ranks ({use: llm, judge: ...})"
        elif not any(section.get("input_price") or section.get("output_price") for section in rankers):
            yield "budget.cost", NO_PRICE
    yield from idle_rewards(config)
    if evaluation.instead_of_data:
        reason = f"evaluation={evaluation.name} reads {evaluation.instead_of_data} and no data"
        yield from ((f"data.{name}", reason) for name in config.data if name not in _OF_PRIVACY)
        return
    yield from idle_data(config.data)
    yield from idle_without_training()
    yield from idle_in_part(config)
