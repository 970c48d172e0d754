"""Settings of `evaluation=best_of`: reward models choose the best of n replies, and an independent judge says what that gains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.evaluation.settings import ContestConfig
from psychocounsel.evaluation.stepped import (
    COMPUTED_BY,
    READ_BY_REPLIES,
    REPLIES,
    SteppedEvaluation,
    models_of,
    replies_to_ask,
    source_marks,
)
from psychocounsel.reward.sections import judge_models, scorer_sections
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import Course, StepContext

_JUDGING = ("rubric", "examples", "retries", "seed", "include_near")


@dataclass
class BestOfConfig(ContestConfig):
    """The keys of `evaluate evaluation=best_of`."""

    compare: list[Any] = option([])


def _output(files: EvaluationDir, step: str) -> Path:
    return {"replies": files.replies, "picks": files.picks, "verdicts": files.verdicts, "figures": files.figures}[step]


def _models(config: DictConfig, step: str) -> dict[str, list[LanguageModel]]:
    return models_of(config, {"replies": ("contestants",), "verdicts": ("judge",)}.get(step, ()))


@dataclass(kw_only=True)
class BestOf(SteppedEvaluation):
    """Evaluation of `reward` and `compare` by their choices among the model's replies; docs/rewards.md explains the figures.

    Attributes:
        n: numbers of replies of which the one with the largest reward is chosen.
        rubric, examples, retries, seed, include_near: as of `WinRate`.
    """

    schema: ClassVar[type] = BestOfConfig
    sections: ClassVar[tuple[str, ...]] = ("contestants", "judge", "reward", "compare")
    has_opponents: ClassVar[bool] = False
    metric: ClassVar[str] = "win_rate"
    course: ClassVar[Course[EvaluationDir]] = Course(
        steps=("replies", "picks", "verdicts", "figures"),
        modules={
            "replies": REPLIES,
            "picks": "psychocounsel.evaluation.best_of.picks_step",
            "verdicts": "psychocounsel.evaluation.best_of.picks_step:judge",
            "figures": "psychocounsel.evaluation.best_of.figures_step",
        },
        reads={
            "replies": READ_BY_REPLIES,
            "picks": ("reward", "compare", "evaluation.n"),
            "verdicts": ("judge", "crisis_to_third_parties", *(f"evaluation.{name}" for name in _JUDGING)),
            "figures": (),
        },
        output=_output,
        models=_models,
        sources=source_marks,
        redone=("picks", "figures"),
        answering=("contestants", "judge"),
        code={"figures": ("evaluation/best_of/*.py", *COMPUTED_BY)},
    )

    name: str = "best_of"
    n: list[int] = option([1, 4, 16])
    rubric: str = "builtin:en"
    examples: bool = False
    retries: int = option(2, at_least=0, at_most=20)
    seed: int = option(0, at_least=0, at_most=2**32 - 1)
    include_near: bool = False

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        if not self.n or min(self.n) < 1 or max(self.n) > config.replies.samples:
            raise UserError(
                f"evaluation.n={[*self.n]}: give numbers from 1 to replies.samples={config.replies.samples}, or raise "
                "replies.samples"
            )
        if len(set(config.contestants.settings)) > 1:
            raise UserError("against: evaluation=best_of compares a model with itself; leave it out")
        if [*judge_models(config)]:
            raise UserError(
                "compare: a language model that ranks gives no scores; evaluation=best_of needs reward models"
            )
        super().prepare(config, run_dir)
        if any(model.reads_prompts for model in build(config, "judge").models()):
            from psychocounsel.evaluation.judging.pairs import pair_prompt

            pair_prompt(self.rubric, self.examples)

    def unused(self, config: Any = None) -> dict[str, str]:
        if any(model.reads_prompts for model in build(config, "judge").models()):
            return {}
        return dict.fromkeys(("rubric", "examples", "retries", "seed"), "no judge reads a prompt")

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        others = [section.name for key, section in scorer_sections(config) if key != "reward"]
        rates = [
            "win_rate",
            *(f"win_rate_of_{n}{end}" for n in self.n for end in ("", *(f"/{name}" for name in others))),
        ]
        return tuple(f"{rate}{end}" for rate in rates for end in ("", "_low", "_high"))

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        return replies_to_ask(context) if "replies" in due else []
