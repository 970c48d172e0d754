"""Evaluations that work in steps: contestants reply, models judge, figures follow; a journal keeps every answer."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.asking.parties import refuse_internet
from psychocounsel.errors import UserError
from psychocounsel.evaluation.base import Evaluation
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.sections.annotation_groups import key_variables
from psychocounsel.settings.targets import build
from psychocounsel.settings.typed.annotate_keys import check_steps
from psychocounsel.settings.typed.evaluate_keys import ContestConfig
from psychocounsel.steps.at_work import work_in_steps
from psychocounsel.steps.context import Bar, StepContext
from psychocounsel.steps.course import Course
from psychocounsel.steps.plan import asked_steps, planned
from psychocounsel.steps.running import run_steps
from psychocounsel.steps.showing import Showing

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run

REPLIES = "psychocounsel.evaluation.contestants.step"
READ_BY_REPLIES = ("contestants", "replies", "crisis_to_third_parties", "data", "part", "limit", "trained_on")


@dataclass(kw_only=True)
class SteppedEvaluation(Evaluation):
    """A subclass sets `course`, whose last step returns the run's metrics under `metrics`, and says what it asks."""

    schema: ClassVar[type] = ContestConfig
    course: ClassVar[Course[EvaluationDir]]

    @abstractmethod
    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        """Lines of a dry run; `context.files` is a draft, so tables may be written there."""

    def work(self, run: Run, bar: Bar) -> int:
        showing = Showing(run.write_state, run.say)
        context = StepContext(run.config, EvaluationDir(run.dir), run.say, showing.bar)

        def do() -> dict[str, Any]:
            figures = run_steps(self.course, context, showing.begin)
            run.say(f"written to {run.dir}")
            metrics: dict[str, Any] = figures.get(self.course.steps[-1], {}).get("metrics", {})
            return metrics

        return work_in_steps(run, context.files, do)

    def process_count(self, config: DictConfig) -> int:
        """One: a model in process uses all GPUs of its job."""
        cluster = config.cluster
        if (cluster.get("processes") or 1) > 1 or (cluster.get("nodes") or 1) > 1:
            raise UserError(f"cluster.processes, cluster.nodes: evaluation={self.name} runs one process a job")
        cluster.processes = 1
        return 1

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        check_steps(asked_steps(self.course, config), self.course.steps)
        due = {each.step for each in planned(self.course, config, EvaluationDir(run_dir)) if each.due}
        asking = {group for step in due for group in self.course.models(config, step)}
        for key, variable in key_variables(config):
            if key.partition(".")[0] in asking and variable not in os.environ:
                raise UserError(
                    f"{key}={variable}: there is no such environment variable: export {variable}=KEY, then again"
                )
        refuse_internet(config, sorted(asking))

    def nothing_due(self, config: DictConfig) -> bool:
        return not any(each.due for each in planned(self.course, config, EvaluationDir(Path(config.run_dir))))

    def forecast(self, config: DictConfig) -> list[str]:
        from psychocounsel.steps.drafts import draft_of

        files = EvaluationDir(Path(config.run_dir))
        due = {each.step for each in planned(self.course, config, files) if each.due}
        with draft_of(files) as draft:
            return self.to_ask(StepContext(config, draft, lambda line: None, lambda items, *_, **__: items), due)


def replies_to_ask(context: StepContext[EvaluationDir]) -> list[str]:
    """Lines of a dry run about the step `replies`; it writes the draft's speeches."""
    from psychocounsel.evaluation.contestants import step

    step.write_speeches(context)
    return step.estimate(context).lines("replies")


def models_of(config: DictConfig, groups: tuple[str, ...]) -> dict[str, list[LanguageModel]]:
    """The models of each of `groups`, by its name."""
    return {group: build(config, group).models() for group in groups}
