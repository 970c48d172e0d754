"""Settings of `evaluation=best_of`: reward models choose the best of n replies, and an independent judge says what that gains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.comparing import READ_BY_VERDICTS, ComparingEvaluation
from psychocounsel.evaluation.settings import ContestConfig
from psychocounsel.evaluation.stepped import (
    COMPUTED_BY,
    READ_BY_REPLIES,
    REPLIES,
    models,
    outputs,
    replies_to_ask,
    source_marks,
)
from psychocounsel.reward.sections import judge_models, scorer_sections
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.schema import option
from psychocounsel.steps.course import Course, StepContext


@dataclass
class BestOfConfig(ContestConfig):
    """The keys of `evaluate evaluation=best_of`."""

    compare: list[Any] = option([])


@dataclass(kw_only=True)
class BestOf(ComparingEvaluation):
    """Evaluation of `reward` and `compare` by their choices among the model's replies; docs/rewards.md explains the figures.

    Attributes:
        n: numbers of replies of which the one with the largest reward is chosen.
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
            "picks": ("reward", "compare"),
            "verdicts": READ_BY_VERDICTS,
        },
        group="evaluation",
        output=outputs(replies="replies", picks="picks", verdicts="verdicts", figures="figures"),
        models=models(replies=("contestants",), verdicts=("judge",)),
        sources=source_marks,
        redone=("picks", "figures"),
        answering=("contestants", "judge"),
        code={
            "figures": (
                *("evaluation/best_of/*.py", "evaluation/winrate/*.py", "evaluation/health/*.py"),
                *("evaluation/judging/*.py", *COMPUTED_BY),
            )
        },
    )

    name: str = "best_of"
    n: list[int] = option([1, 4, 16], step="picks")

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

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        others = [section.name for key, section in scorer_sections(config) if key != "reward"]
        rates = [
            "win_rate",
            *(f"win_rate_of_{n}{end}" for n in self.n for end in ("", *(f"/{name}" for name in others))),
        ]
        return tuple(f"{rate}{end}" for rate in rates for end in ("", "_low", "_high"))

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        from psychocounsel.evaluation.best_of import picks_step

        lines = replies_to_ask(context) if "replies" in due else []
        return lines + (picks_step.to_ask(context, due) if "verdicts" in due else [])
