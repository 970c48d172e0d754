"""`forced.json`: how often `force=[STAGE]` has repeated each stage, and the repetitions that have not ended.

A killed or stopped command that is repeated resumes and forces nothing again; so does a command with jobs that
still wait or run. After a command has ended, with or without failures, the next force=[STAGE] makes one more repetition.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from psychocounsel.cluster.states import rows_of
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.sweep import ListedRun
from psychocounsel.storage.files import read_mapping, write_json
from psychocounsel.studies.plan import StudyPlan, following
from psychocounsel.studies.references import named_stages


@dataclass
class ForcedStages:
    """Content of `forced.json`.

    Attributes:
        times: number of forced repetitions of each stage.
        begun: stages whose command has not ended yet.
        submitted: stages whose command queued them, each with the runs to make (paths relative to the study).
    """

    times: dict[str, int] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    submitted: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, files: StudyDir) -> "ForcedStages":
        record = read_mapping(files.forced)
        return cls(dict(record.get("times", {})), list(record.get("begun", [])), dict(record.get("submitted", {})))

    def with_forced(self, stages: Sequence[str], files: StudyDir) -> "ForcedStages":
        """Return the state after a command with force=[STAGES].

        Raises:
            UserError: if the cluster of an earlier submission does not answer.
        """
        requested = dict.fromkeys(stages)
        ended = {
            stage for stage in requested if stage in self.submitted and not _any_live(files.path, self.submitted[stage])
        }
        submitted = {stage: runs for stage, runs in self.submitted.items() if stage not in ended}
        new = [stage for stage in requested if stage not in self.begun and stage not in submitted]
        times = self.times | {stage: self.times.get(stage, 0) + 1 for stage in new}
        return ForcedStages(times, [*self.begun, *new], submitted)

    def write(self, files: StudyDir) -> None:
        if self.times:
            write_json(files.forced, {"times": self.times, "begun": self.begun, "submitted": self.submitted})

    def ended(self, plan: StudyPlan) -> "ForcedStages":
        """Return the state after the command of `plan` has ended; the next one may force its stages again."""
        requested = {planned.name for planned in plan.stages if planned.is_requested}
        left = {stage: runs for stage, runs in self.submitted.items() if stage not in requested}
        return ForcedStages(self.times, [stage for stage in self.begun if stage not in requested], left)

    def queued(self, plan: StudyPlan) -> "ForcedStages":
        """Return the state after the jobs of `plan` were queued."""
        requested = {planned.name for planned in plan.stages if planned.is_requested}
        begun = [stage for stage in self.begun if stage in requested]
        submitted = self.submitted | {stage: _runs(plan, stage) for stage in begun}
        return ForcedStages(self.times, [stage for stage in self.begun if stage not in requested], submitted)


def _runs(plan: StudyPlan, forced: str) -> list[str]:
    """Return the runs of a forced stage and of the stages after it, as far as the command requests them."""
    behind = following({planned.name: named_stages(planned.stage) for planned in plan.stages}, [forced])
    stages = [planned for planned in plan.stages if planned.is_requested and planned.name in behind]
    return [plan.relative(cell.run_dir) for planned in stages for cell in planned.cells]


def _any_live(study: Path, runs: Collection[str]) -> bool:
    """Return True if one of these runs waits or runs in its cluster's queue."""
    return any(
        row.is_live for row in rows_of([ListedRun(None, study / run, "") for run in runs if is_run(study / run)])
    )
