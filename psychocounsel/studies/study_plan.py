"""Plan of a study before anything starts: stages of cells; each cell is a checked job with a run directory and a fingerprint.

    plan.stages                   ordered so that every stage comes after those that it needs
    plan.stages[0].cells          one for each combination of its sweep with the cells of `for_each`
    plan.stages[0].cells[0].job   module, checked config, run directory, and `after`: the run directories that it needs
    plan.stages[0].selection      the job that chooses the best cell, if the stage has `best`
    plan.groups()                 all jobs, in the form that a cluster with a queue takes

The plan itself is not written to disk. `cells.json` in the study's folder lists the same cells for readers of results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.cluster.job import Job
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.studies.study_file import Study, StudyStage


class StudyErrors(UserError):
    """All mistakes of a study, one per line."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = list(lines)


@dataclass
class StudyRequest:
    """Request of a command in addition to the study.

    Attributes:
        overrides: overrides of every stage whose command has the key (cluster=slurm).
        force: stages that are repeated.
        times: number of repetitions of each stage, including this command's.
        folders: folders of --config-dir.
    """

    only: list[str] = field(default_factory=list)
    start_at: str | None = None
    overrides: list[str] = field(default_factory=list)
    force: list[str] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)


@dataclass
class StudyCell:
    """One run of a stage.

    Attributes:
        name: name of its folder, or of its stage if the stage sweeps nothing.
        swept: the swept keys with their values as typed: {"algo.beta": "0.3", "seed": "2"}.
        parent: its cell of `for_each`.
        fingerprint: sha256 of everything that decides its result, including the cells that it needs.
    """

    stage: str
    name: str
    swept: dict[str, str]
    parent: "StudyCell | None"
    job: Job
    fingerprint: str

    @property
    def run_dir(self) -> Path:
        return self.job.run_dir


@dataclass
class PlannedStage:
    """A stage with its cells; `selection` chooses the best. `is_asked` is False if `only` or `start_at` leave it out."""

    stage: StudyStage
    cells: list[StudyCell] = field(default_factory=list)
    selection: Job | None = None
    is_asked: bool = True

    @property
    def name(self) -> str:
        return self.stage.name

    def jobs(self) -> list[Job]:
        """Jobs of its cells, then the selection."""
        return [*(cell.job for cell in self.cells), *([self.selection] if self.selection else [])]


@dataclass
class StudyPlan:
    """A study that was checked as a whole.

    `table` writes the study's tables after all other jobs have ended, even if some failed.
    """

    study: Study
    files: StudyDir
    stages: list[PlannedStage]
    table: Job | None = None

    def groups(self) -> list[list[Job]]:
        """Return all jobs in groups, each after those that it needs: cells and selection of each stage, then the table.

        Finished jobs are included, with `finished` and `skip` set, because others name them in `after`. Stages that were not
        requested are left out, because the runs that others need from them have finished.
        """
        asked = [each for each in self.stages if each.is_asked]
        groups = [group for each in asked for group in ([c.job for c in each.cells], _one(each.selection)) if group]
        return [*groups, *([[self.table]] if self.table else [])]

    def listing(self) -> dict[str, Any]:
        """Return the content of `cells.json`: for each stage its command, its cells, and the job that chooses the best.

        {"stages": {STAGE: {"command": "train", "best": METRIC, "select": FOLDER, "cells": [CELL, ...]}}}, where CELL is
        {"name": NAME, "run_dir": "STAGE/FOLDER", "swept": {KEY: VALUE}, "fingerprint": ..., "parent": "STAGE/FOLDER" or null}
        """
        return {"stages": {each.name: self._listed(each) for each in self.stages}}

    def _listed(self, planned: PlannedStage) -> dict[str, Any]:
        cells = [
            {
                "name": cell.name,
                "run_dir": self.relative(cell.run_dir),
                "swept": cell.swept,
                "fingerprint": cell.fingerprint,
                "parent": self.relative(cell.parent.run_dir) if cell.parent else None,
            }
            for cell in planned.cells
        ]
        select = planned.selection.run_dir.name if planned.selection else None
        return {"command": planned.stage.command, "best": planned.stage.best, "select": select, "cells": cells}

    def relative(self, run_dir: Path) -> str:
        """Return a run directory relative to the study, so that the folder may be moved."""
        return str(run_dir.relative_to(self.files.path))


def _one(job: Job | None) -> list[Job]:
    return [job] if job else []
