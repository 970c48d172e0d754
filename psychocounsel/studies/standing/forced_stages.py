"""`forced.json`: how often each stage of a study was made anew by `force=[STAGE]`, and which of these commands go on.

A command that was killed or stopped, and is given again, forces nothing anew: it goes on. So does one whose jobs are still in a
queue. A command that has ended, whether its runs finished or failed, does not: the next force=[STAGE] makes one more.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from psychocounsel.rundir.paths import StudyDir
from psychocounsel.rundir.summary import FINISHED, read_summary
from psychocounsel.storage.files import read_mapping, write_json
from psychocounsel.studies.graph import following
from psychocounsel.studies.references import named_stages
from psychocounsel.studies.study_plan import StudyPlan

_FAILED = "failed"


@dataclass
class ForcedStages:
    """What `forced.json` holds.

    Attributes:
        times: how often each stage was made anew.
        begun: stages whose command has not ended yet.
        submitted: stages whose command gave them to a queue, each with the runs that it was to make, relative to the study.
    """

    times: dict[str, int] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    submitted: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, files: StudyDir) -> "ForcedStages":
        """The record, without what has ended in the queue since."""
        record = read_mapping(files.forced)
        submitted = {
            stage: list(runs) for stage, runs in record.get("submitted", {}).items() if not _ended(files.path, runs)
        }
        return cls(dict(record.get("times", {})), list(record.get("begun", [])), submitted)

    def with_forced(self, stages: Sequence[str]) -> "ForcedStages":
        """The same after a command with force=[STAGES]."""
        new = [stage for stage in dict.fromkeys(stages) if stage not in self.begun and stage not in self.submitted]
        times = self.times | {stage: self.times.get(stage, 0) + 1 for stage in new}
        return ForcedStages(times, [*self.begun, *new], self.submitted)

    def write(self, files: StudyDir) -> None:
        if self.times:
            write_json(files.forced, {"times": self.times, "begun": self.begun, "submitted": self.submitted})

    def ended(self, plan: StudyPlan) -> "ForcedStages":
        """The same after the command of `plan` has run to its end: the next one may force its stages again."""
        asked = {each.name for each in plan.stages if each.is_asked}
        left = {stage: runs for stage, runs in self.submitted.items() if stage not in asked}
        return ForcedStages(self.times, [stage for stage in self.begun if stage not in asked], left)

    def queued(self, plan: StudyPlan) -> "ForcedStages":
        """The same after the jobs of `plan` were given to a queue."""
        asked = {each.name for each in plan.stages if each.is_asked}
        begun = [stage for stage in self.begun if stage in asked]
        submitted = self.submitted | {stage: _runs(plan, stage) for stage in begun}
        return ForcedStages(self.times, [stage for stage in self.begun if stage not in asked], submitted)


def _runs(plan: StudyPlan, forced: str) -> list[str]:
    """The runs of a forced stage and of the stages behind it, as far as the command asks for them."""
    behind = following({each.name: named_stages(each.stage) for each in plan.stages}, [forced])
    stages = [each for each in plan.stages if each.is_asked and each.name in behind]
    return [plan.relative(cell.run_dir) for each in stages for cell in each.cells]


def _ended(study: Path, runs: Collection[str]) -> bool:
    """Whether all runs have finished, or one has failed: then no job of the command goes on by itself to its end."""
    ends = [read_summary(study / run).get("status") for run in runs]
    return _FAILED in ends or all(end == FINISHED for end in ends)
