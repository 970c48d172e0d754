"""Records of submissions to a queue: `submissions/NNNN/` in a sweep's folder, or in a run's own."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psychocounsel.rundir.paths import StudyDir, SubmissionDir, SubmissionHome, SweepDir
from psychocounsel.storage.files import DamagedFile, read_json, read_mapping, write_json
from psychocounsel.storage.locks import Lock, holder

_POLL_SECONDS = 0.5
_held: set[Path] = set()  # the locks that this process holds


@dataclass
class Record:
    """One submitted script: the jobs of its segments, and the runs of each array index (without an array, of its one job)."""

    jobs: list[str]
    tasks: list[list[Path]]
    code: list[str]  # copies of the code that the jobs run, relative to the folder of the submissions
    files: SubmissionDir

    @property
    def is_array(self) -> bool:
        return len(self.tasks) > 1

    @property
    def owner(self) -> int:
        """Id of the user who submitted it."""
        return self.files.path.stat().st_uid

    def task_names(self, index: int) -> list[str]:
        """Return the names of a task in every segment of the submission."""
        return [f"{job}_{index}" if self.is_array else job for job in self.jobs]

    def task_name(self, index: int) -> str:
        """Return the name of a task in the last segment."""
        return self.task_names(index)[-1]


def new_submission(home: Path) -> SubmissionDir:
    """Create the folder of the next submission."""
    files = SubmissionHome(home)
    number = max(files.submission_numbers(), default=0)
    while True:
        number += 1
        submission = files.submission(number)
        with contextlib.suppress(FileExistsError):  # another command made it first
            files.submissions.mkdir(parents=True, exist_ok=True)
            submission.path.mkdir()
            return submission


def write(
    submission: SubmissionDir, home: Path, jobs: Sequence[str], tasks: Sequence[Sequence[Path]], code: Sequence[Path]
) -> None:
    """Record the ids of a submission's jobs (none before SLURM has answered), its runs and its code.

    Runs and code are relative to `home`, because it may be moved.
    """
    relative = [[str(run.relative_to(home)) for run in runs] for runs in tasks]
    paths = [os.path.relpath(path, home) for path in code]  # a study's code lies above its stages
    content = {"jobs": [*jobs], "submitted": time.time(), "code": paths, "tasks": relative}
    write_json(submission.record, content)


def read(home: Path) -> list[Record]:
    """Return all submissions from `home`, oldest first, without those that never reached SLURM.

    Those of a sweep begin with its runs' own, which were submitted alone before their folder became one of a sweep.

    Raises:
        DamagedFile: if a record is not readable.
    """
    own = sorted(home.glob(f"*/{SubmissionHome(home).submissions.name}")) if SweepDir(home).table.exists() else []
    alone = [
        replace(record, code=[os.path.relpath(path.parent / copy, home) for copy in record.code])
        for path in own
        for record in _read(path.parent)
    ]
    return [*alone, *_read(home)]


def _read(home: Path) -> list[Record]:
    records = []
    for submission in SubmissionHome(home).submission_dirs():
        content: Any = read_json(submission.record)
        if not content:
            continue
        try:
            tasks = [[home / run for run in runs] for runs in content["tasks"]]
            record = Record(content["jobs"], tasks, content["code"], submission)
        except (KeyError, TypeError) as error:
            raise DamagedFile(f"{submission.record}: has no jobs or no runs; restore it") from error
        records += [record] if record.jobs else []
    return records


def unsubmitted(home: Path) -> list[SubmissionDir]:
    """Return this user's submissions without a job: in progress, or left by a killed command.

    The list is empty if `home` is read-only.
    """
    drafts = [draft for draft in SubmissionHome(home).submission_dirs() if not read_mapping(draft.record).get("jobs")]
    return [draft for draft in drafts if draft.path.stat().st_uid == os.geteuid() and os.access(home, os.W_OK)]


def adopt(submission: SubmissionDir, jobs: Sequence[str]) -> None:
    """Record the jobs of a submission whose command was killed before it could record them."""
    write_json(submission.record, {**read_mapping(submission.record), "jobs": [*jobs]})


def remove(submission: SubmissionDir) -> None:
    """Remove a submission that never reached the queue. A job that reaches it late finds no runs and ends at once."""
    shutil.rmtree(submission.path, ignore_errors=True)


@contextlib.contextmanager
def submitting(home: Path) -> Iterator[None]:
    """Hold the right to submit from `home` while the block runs; wait for a live process that holds it."""
    lock = Lock(path := _lock_of(home))
    if path in _held:
        yield
        return
    announced = False
    while not lock.take():
        if not announced and (other := holder(path)):
            words = f"waiting: process {other['pid']} on {other['host']} is submitting from {path.parent}"
            print(f"{words} (Ctrl-C is safe: nothing has been submitted yet)", file=sys.stderr, flush=True)
            announced = True
        time.sleep(_POLL_SECONDS)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        lock.release()


def is_being_submitted(home: Path) -> bool:
    """Return True if another live process submits from `home` now."""
    path = _lock_of(home)
    return path not in _held and holder(path) is not None


def _lock_of(home: Path) -> Path:
    """Return the lock of `home`. Stages of a study share the study's lock, because one command submits them all."""
    return SubmissionHome(home.parent if StudyDir(home.parent).study.exists() else home).lock


def home_of(folder: Path) -> Path:
    """Return the folder of the submissions of a sweep (its own), or of a run (its sweep's, or its own)."""
    if SweepDir(folder).table.exists():
        return folder
    return folder.parent if SweepDir(folder.parent).table.exists() else folder
