"""Base class of evaluations in steps: contestants write replies, models judge them, the last step computes figures.

A journal keeps every answer of a model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.asking.model_groups import require_keys
from psychocounsel.asking.parties import refuse_internet
from psychocounsel.asking.system_prompts import prompt_lines
from psychocounsel.data.privacy import paths_of
from psychocounsel.data.sources import source_of
from psychocounsel.errors import DONE, UserError
from psychocounsel.evaluation.base import Evaluation
from psychocounsel.evaluation.contestants.settings import in_the_users_words
from psychocounsel.evaluation.judging.judges import RewardJudge
from psychocounsel.evaluation.settings import ContestConfig
from psychocounsel.reward.local_model import format_lines
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.results import FINISHED
from psychocounsel.rundir.run_config import has_config, read_config
from psychocounsel.rundir.trained_runs import MEASURED, progress_of_models, unfinished_models
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import Bar, Course, StepContext, check_steps, one_process
from psychocounsel.steps.plan import PlannedStep, planned_steps, requested_steps
from psychocounsel.steps.running import StepProgress, run_steps, work_in_steps

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run

REPLIES = "psychocounsel.evaluation.contestants.replies_step"
# Code that computes figures, verdicts and tables, in addition to an evaluation's own folder (Course.code).
COMPUTED_BY = (
    *("blocks/conclusions.py", "evaluation/showing.py"),
    *("metrics/*.py", "evaluation/judging/bias.py", "evaluation/judging/served_models.py", "counsel/*.py"),
    *("asking/answer_text.py", "data/shared_text.py", "evaluation/contestants/speeches.py"),
)
# Keys that say which data an evaluation reads, with their defaults.
DATA_KEYS = {"data.path": "builtin:sample", "part": "held_out", "trained_on": []}
READ_BY_REPLIES = ("contestants", "replies", "crisis_to_third_parties", "data", "part", "limit", "trained_on")


@dataclass(kw_only=True)
class SteppedEvaluation(Evaluation):
    """Evaluation whose `course` lists its steps; the last step returns the run's metrics under the key `metrics`.

    `has_opponents`: False if the model is never compared with other contestants. `several_lengths`: True if the figures of
    each limit in `replies.length_limits` stand by themselves.
    """

    schema: ClassVar[type] = ContestConfig
    has_opponents: ClassVar[bool] = True
    several_lengths: ClassVar[bool] = False
    course: ClassVar[Course[EvaluationDir]]

    @abstractmethod
    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        """Return the lines that a dry run prints for the steps that are `due`.

        `context.files` is a draft directory, so the method may write tables there.
        """

    def work(self, run: Run, bar: Bar) -> int:
        showing = StepProgress(run.write_state, run.say)
        share = (0, 1) if run.config.share is None else (run.config.share, run.config.shards)
        context = StepContext(run.config, directory(run.config), run.say, showing.bar, share)

        for line in self.opening(run.config):
            run.say(line)
        judges = [judge.reward.get("path") for judge in self._reward_judges(run.config)]
        contestants = [model.model for model in build(run.config, "contestants").models()]
        measured = progress_of_models([*contestants, *judges])
        partial = unfinished_models(measured)
        for line in partial:
            run.say(f"warning: {line}")

        def do() -> dict[str, Any]:
            with in_the_users_words(build(run.config, "contestants").settings):
                figures = run_steps(self.course, context, showing.begin)
            for path in context.files.shards.glob("*/*.parquet"):
                path.unlink()  # the merged tables hold the same texts
            run.say(f"written to {run.dir}")
            last = figures.get(self.course.steps[-1], {})
            doubts = [*partial, *last.get("doubts", [])]
            verdicts = {"verdicts": last["verdicts"]} if "verdicts" in last else {}
            more = {**({"doubts": doubts} if doubts else {}), **({MEASURED: measured} if measured else {})}
            return {"metrics": last.get("metrics", {}), **more, **verdicts}

        return work_in_steps(run, context.files, do, lambda: self.ending(context))

    def opening(self, config: DictConfig) -> list[str]:
        """Return the lines that a run prints first. Default: the base, and what the models' runs settle."""
        unused = self.unused_sections(config)
        rewards = [judge.reward_settings() for judge in self._reward_judges(config)]
        contestants = build(config, "contestants")
        lines = contestants.opening() if self.has_opponents else contestants.format_lines()
        models = [] if "model" in unused else [*lines, *prompt_lines(config)]
        return [*models, *format_lines(rewards)]

    def _reward_judges(self, config: DictConfig) -> list[RewardJudge]:
        unused = config.get("judge") is None or "judge" in self.unused_sections(config)
        judges = [] if unused else build(config, "judge").models()
        return [judge for judge in judges if isinstance(judge, RewardJudge)]

    def ending(self, context: StepContext[EvaluationDir]) -> tuple[int, str]:
        """Return the exit code of a run whose steps are done, and its status for summary.json.

        Default: 0 and `finished`. The gate evaluation overrides this with its decision.
        """
        return DONE, FINISHED

    def process_count(self, config: DictConfig) -> int:
        return one_process(config.cluster, f"evaluation={self.name}", "set both to 1")

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        limits = [*config.replies.length_limits]
        if len(limits) > 1 and not self.several_lengths:
            raise UserError(
                f"replies.length_limits: evaluation={self.name} takes one limit, such as [150], or [null] for no limit"
            )
        if not limits or any(limit is not None and limit < 1 for limit in limits):
            shown = ",".join("null" if limit is None else str(limit) for limit in limits)
            raise UserError(
                f"replies.length_limits=[{shown}]: give numbers of words of at least 1, or null for no limit, such as [null,150]"
            )
        check_steps(requested_steps(self.course, config), self.course.steps)
        before = OmegaConf.select(read_config(run_dir), "evaluation.name") if has_config(run_dir) else self.name
        if before != self.name:
            raise UserError(
                f"run_dir={run_dir}: holds evaluation={before}; choose another run_dir for evaluation={self.name}"
            )
        due = {planned.step for planned in self.planned(config) if planned.due}
        asking = {group for step in due for group in self.course.models(config, step)}
        if not config.dry_run:
            require_keys(config, asking)
        refuse_internet(config, sorted(asking))

    def refuse_data_keys(self, config: DictConfig) -> None:
        """Reject keys about data in an evaluation that has `instead_of_data`.

        Raises:
            UserError: if such a key is not at its default; the message names the key.
        """
        for key, default in DATA_KEYS.items():
            if OmegaConf.select(config, key) != default:
                raise UserError(
                    f"{key}: evaluation={self.name} uses {self.instead_of_data} and reads no data; leave {key} out"
                )

    def nothing_due(self, config: DictConfig) -> bool:
        return not any(planned.due for planned in self.planned(config))

    def planned(self, config: DictConfig) -> list[PlannedStep]:
        """Return the steps of a checked configuration; each is marked as due or as done in the run directory."""
        return planned_steps(self.course, config, directory(config))

    def shared_steps(self, config: DictConfig) -> list[str]:
        """Return the steps that can be split into shards: those that ask models, and those before the last of them."""
        steps = requested_steps(self.course, config)
        asking = [place for place, step in enumerate(steps, 1) if self.course.models(config, step)]
        return steps[: max(asking, default=0)]

    def forecast(self, config: DictConfig) -> list[str]:
        from psychocounsel.steps.running import draft_of

        due = {planned.step for planned in self.planned(config) if planned.due}
        if not due:
            return ["all steps are done: there is nothing to do"]
        files = EvaluationDir(Path(config.run_dir))
        with draft_of(files) as draft:
            show_tables(files, draft)
            opening = self.opening(config)
            return opening + self.to_ask(
                StepContext(config, draft, lambda line: None, lambda items, *_, **__: items), due
            )


def directory(config: DictConfig) -> EvaluationDir:
    """Return the directory that a job works in: the run directory, or the shard's folder in `RUN/shards/`."""
    path = Path(config.run_dir)
    return EvaluationDir(path) if config.share is None else EvaluationDir(path.parent.parent).shard(config.share)


def show_tables(files: EvaluationDir, draft: EvaluationDir) -> None:
    """Let an empty draft directory show the tables of a directory. A table that is written to the draft replaces its link."""
    for table in files.path.glob("*.parquet"):
        (draft.path / table.name).symlink_to(table.resolve())


def source_marks(config: DictConfig) -> dict[str, Any]:
    """Return [size, modification time in ns] of each file that speeches are read from; {} if a file no longer exists."""
    marks: dict[str, Any] = {}
    try:
        for path in _sources(config):
            marks[str(path)] = [(status := path.stat()).st_size, status.st_mtime_ns]
    except OSError:
        return {}
    return marks


def _sources(config: DictConfig) -> Iterator[Path]:
    source = source_of(config.data)
    for path in paths_of(config.data):
        yield from source.files(path) or ()


def replies_to_ask(context: StepContext[EvaluationDir], speeches: Any = None) -> list[str]:
    """Return the lines that a dry run prints about the step `replies`.

    The function writes the speeches to the draft directory; by default, they are read from `data`.
    """
    from psychocounsel.evaluation.contestants import replies_step

    replies_step.write_speeches(context, speeches or replies_step.evaluation_speeches)
    return replies_step.estimate(context).lines("replies")


def outputs(**files: str) -> Callable[[EvaluationDir, str], Path]:
    """Return `Course.output`. `files`: for each step, the attribute of EvaluationDir that names its file."""

    def output(folder: EvaluationDir, step: str) -> Path:
        path: Path = getattr(folder, files[step])
        return path

    return output


def models(**groups: tuple[str, ...]) -> Callable[[DictConfig, str], dict[str, list[LanguageModel]]]:
    """Return `Course.models`. `groups`: the config groups of the models that a step asks, for each step that asks some."""
    return lambda config, step: models_of(config, groups.get(step, ()))


def models_of(config: DictConfig, groups: tuple[str, ...]) -> dict[str, list[LanguageModel]]:
    """Return the language models of each config group in `groups`, by the group's name."""
    return {group: build(config, group).models() for group in groups}
