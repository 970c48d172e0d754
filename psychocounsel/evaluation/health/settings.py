"""Settings of `evaluation=health`: it finds broken replies (unfinished, loops, invented turns) and compares with a base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import DictConfig

from psychocounsel.evaluation.stepped import (
    COMPUTED_BY,
    READ_BY_REPLIES,
    REPLIES,
    SteppedEvaluation,
    models,
    outputs,
    replies_to_ask,
    source_marks,
)
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.course import Course, StepContext


@dataclass(kw_only=True)
class HealthEvaluation(SteppedEvaluation):
    """Evaluation that measures the texts of the replies; no judge is asked."""

    sections: ClassVar[tuple[str, ...]] = ("contestants",)
    several_lengths: ClassVar[bool] = True
    metric: ClassVar[str] = "limits_exceeded"
    course: ClassVar[Course[EvaluationDir]] = Course(
        steps=("replies", "figures"),
        modules={"replies": REPLIES, "figures": "psychocounsel.evaluation.health.figures_step"},
        reads={"replies": READ_BY_REPLIES},
        group="evaluation",
        output=outputs(replies="replies", figures="figures"),
        models=models(replies=("contestants",)),
        sources=source_marks,
        redone=("figures",),
        answering=("contestants",),
        code={"figures": ("evaluation/health/*.py", *COMPUTED_BY)},
    )

    name: str = "health"

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        from psychocounsel.evaluation.health.reply import FIGURES

        return ("limits_exceeded", "limits_undecided", *FIGURES)

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        return replies_to_ask(context) if "replies" in due else []
