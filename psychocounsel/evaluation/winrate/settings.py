"""Settings of `evaluation=winrate`, which measures how often judges prefer a model's replies to those of opponents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.comparing import READ_BY_VERDICTS, ComparingEvaluation
from psychocounsel.evaluation.stepped import (
    COMPUTED_BY,
    READ_BY_REPLIES,
    REPLIES,
    models,
    outputs,
    replies_to_ask,
    source_marks,
)
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.schema import option
from psychocounsel.steps.course import Course, StepContext


@dataclass(kw_only=True)
class WinRate(ComparingEvaluation):
    """Evaluation by comparison of replies, each pair in both orders; docs/winrate.md explains every figure.

    Attributes:
        controls: number of speeches on which judges compare controls (replies made by rule, such as echoes and loops), and the
            contestants' replies, with the best and the median reply of the data; 0: none.
        max_control: share of speeches; a judge that prefers some control to the best reply more often shows no winner.
        experts: files with experts' labels of pairs of replies, with the columns prompt, reply_a, reply_b, better and expert.
        samples: number of resamples for each interval.
        figures_seed: seed of the resamples.
    """

    sections: ClassVar[tuple[str, ...]] = ("contestants", "judge")
    several_lengths: ClassVar[bool] = True
    metric: ClassVar[str] = "win_rate"
    course: ClassVar[Course[EvaluationDir]] = Course(
        steps=("replies", "verdicts", "controls", "statistics"),
        modules={
            "replies": REPLIES,
            "verdicts": "psychocounsel.evaluation.judging.verdicts_step",
            "controls": "psychocounsel.evaluation.winrate.controls_step",
            "statistics": "psychocounsel.evaluation.winrate.statistics_step",
        },
        reads={
            "replies": READ_BY_REPLIES,
            "verdicts": READ_BY_VERDICTS,
        },
        group="evaluation",
        output=outputs(replies="replies", verdicts="verdicts", controls="controls", statistics="figures"),
        models=models(replies=("contestants",), verdicts=("judge",), controls=("judge",)),
        sources=source_marks,
        redone=("statistics",),
        answering=("contestants", "judge"),
        code={
            "statistics": (
                *("evaluation/winrate/*.py", "evaluation/health/*.py", "evaluation/judging/*.py"),
                *COMPUTED_BY,
            )
        },
    )

    name: str = "winrate"
    controls: int = option(40, at_least=0, step="controls")
    max_control: float = option(0.1, at_least=0, at_most=1, step="statistics")
    experts: list[str] = option([], path=True, step="statistics")
    samples: int = option(1000, at_least=100, at_most=100_000, step="statistics")
    figures_seed: int = option(0, at_least=0, at_most=2**32 - 1, step="statistics")

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        if len(set(config.contestants.settings)) < 2:
            raise UserError(
                "against: a win rate needs an opponent, and none is known; give against=PATH, or choose evaluation=health"
            )
        super().prepare(config, run_dir)
        for file in self.experts:
            if not Path(file).is_file():
                raise UserError(f"evaluation.experts={file}: the file does not exist")

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        limits = sorted(limit for limit in config.replies.length_limits if limit is not None)
        # keys of the first limit have no suffix
        others = limits if None in config.replies.length_limits else limits[1:]
        suffixes = ("", *(f"_{limit}_words" for limit in others))
        keys = ("win_rate", "win_rate_at_equal_length", "win_rate_plain")
        rates = [f"{key}{suffix}" for suffix in suffixes for key in keys]
        known = [f"{rate}{end}" for rate in rates for end in ("", "_low", "_high")]
        against_data = [f"{key}{suffix}" for suffix in suffixes for key in ("against_best", "against_median")]
        readers = [f"readers_win_rate{end}" for end in ("", "_low", "_high")]
        of_judges = (*against_data, "worst_control", "judges_fooled")
        return (*known, *of_judges, *(f"{name}/*" for name in (*known, "experts_agree", *readers)))

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        from psychocounsel.evaluation.judging import verdicts_step
        from psychocounsel.evaluation.winrate import controls_step

        lines = replies_to_ask(context) if "replies" in due else []
        lines += verdicts_step.to_ask(context, "replies" in due) if "verdicts" in due else []
        return lines + (controls_step.to_ask(context, "replies" in due) if "controls" in due else [])
