"""What was submitted to a queue: `submissions/NNNN/` in a sweep's folder, or in a run's own."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.rundir.paths import SubmissionDir, SubmissionHome, SweepDir
from psychocounsel.storage.files import DamagedFile, read_json, write_json


@dataclass
class Record:
    """One submitted script: the jobs of its segments, and the runs of each array index (of one job without an array)."""

    jobs: list[str]
    tasks: list[list[Path]]
    code: list[str]  # the copies of the code that the jobs run, relative to the folder of the submissions

    @property
    def is_array(self) -> bool:
        return len(self.tasks) > 1

    def task_name(self, index: int) -> str:
        return f"{self.jobs[-1]}_{index}" if self.is_array else self.jobs[-1]


def new_submission(home: Path) -> SubmissionDir:
    """Make the folder of the next submission."""
    files = SubmissionHome(home)
    number = max(files.submission_numbers(), default=0)
    while True:
        number += 1
        submission = files.submission(number)
        with contextlib.suppress(FileExistsError):  # another command's
            files.submissions.mkdir(parents=True, exist_ok=True)
            submission.path.mkdir()
            return submission


def write(
    submission: SubmissionDir, home: Path, jobs: Sequence[str], tasks: Sequence[Sequence[Path]], code: Sequence[Path]
) -> None:
    """Note the jobs that SLURM has given ids to; runs and code relative to `home`, which may be moved."""
    relative = [[str(run.relative_to(home)) for run in runs] for runs in tasks]
    paths = [str(path.relative_to(home)) for path in code]
    content = {"jobs": [*jobs], "submitted": time.time(), "code": paths, "tasks": relative}
    write_json(submission.record, content)


def read(home: Path) -> list[Record]:
    """All submissions below `home`, oldest first; what never reached SLURM is none."""
    found = []
    for submission in SubmissionHome(home).submission_dirs():
        content: Any = read_json(submission.record)
        if content:
            try:
                tasks = [[home / run for run in runs] for runs in content["tasks"]]
                found.append(Record(content["jobs"], tasks, content["code"]))
            except (KeyError, TypeError) as error:
                raise DamagedFile(f"{submission.record}: lacks its jobs or runs; restore it") from error
    return found


def home_of(folder: Path) -> Path:
    """The folder that keeps the submissions of a sweep (its own), or of a run (its sweep's, or its own)."""
    if SweepDir(folder).table.exists():
        return folder
    return folder.parent if SweepDir(folder.parent).table.exists() else folder
