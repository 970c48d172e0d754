"""Store of code copies: `.code-UID/` next to the runs holds copies named by a content hash and shared by sweeps and runs.

Each copy has a folder of notes that name the folders submitting with it. A copy without a submission from these folders is
removed when code is copied again, when a submission fails, and by `jobs forget`.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from psychocounsel.cluster.slurm.copied_code import snapshot
from psychocounsel.rundir import submissions
from psychocounsel.rundir.paths import StudyDir, SubmissionHome, SweepDir
from psychocounsel.rundir.run_config import is_run
from psychocounsel.storage.files import read_mapping, write_atomically
from psychocounsel.storage.locks import Lock

_STORE = f".code-{os.geteuid()}"
_NOTES = ".used-by"  # suffix of a copy's folder of notes
_POLL_SECONDS = 0.2


def store_of(home: Path, output: Path) -> Path:
    """Return the folder of copies for submissions from `home`.

    It is in `output` (`paths.output`) if `home` is, and otherwise next to the outermost study, sweep or run that contains `home`.
    Each user has their own. If no folder can be made there, it is `home/code`.
    """
    place = output if home != output and home.is_relative_to(output) else _outside(home)
    there = next(path for path in (place, *place.parents) if path.exists())
    return place / _STORE if os.access(there, os.W_OK) else SubmissionHome(home).code


def _outside(home: Path) -> Path:
    """Return the folder around the outermost study, sweep or run that contains `home`."""
    holders = [
        path for path in home.parents if is_run(path) or StudyDir(path).study.exists() or SweepDir(path).table.exists()
    ]
    return (holders[-1] if holders else home).parent


def take(store: Path, home: Path, code_path: Sequence[str], targets: Iterable[str], limit_mb: int) -> list[Path]:
    """Copy the code for submissions from `home`, unless `store` contains it. Return folders for PYTHONPATH, the package's first.

    Raises:
        UserError: like `snapshot.take`.
    """
    with _locked(store):
        paths = snapshot.take(store, code_path, targets, limit_mb)
        for copy in {store / path.relative_to(store).parts[0] for path in paths}:
            name = hashlib.sha256(str(home).encode()).hexdigest()[:16]
            notes = _notes(copy)
            notes.mkdir(exist_ok=True)
            write_atomically(notes / name, os.path.relpath(home, store))
        _remove_unused(store, {store / path.relative_to(store).parts[0] for path in paths})
    return paths


def copies_used(home: Path) -> set[Path]:
    """Return the existing copies in a store that submissions from `home` name."""
    named = {(home / path).resolve() for record in submissions.read(home) for path in record.code}
    copies = {each for path in named for each in (path, *path.parents) if each.parent.name == _STORE}
    return {copy for copy in copies if copy.is_dir()}


def remove_unused(store: Path) -> None:
    """Remove copies without submissions, and the store if it is then empty."""
    if not store.is_dir() or not os.access(store, os.W_OK):
        return
    with _locked(store):
        _remove_unused(store)
    with contextlib.suppress(OSError):
        store.rmdir()  # succeeds only if the folder is empty


def _remove_unused(store: Path, kept: Iterable[Path] = ()) -> None:
    for notes in store.glob(f"*{_NOTES}"):
        copy = notes.with_name(notes.name.removesuffix(_NOTES))
        homes = [(store / note.read_text()).resolve() for note in notes.iterdir() if not note.name.startswith(".")]
        if copy not in kept and not any(_uses(home, copy) for home in homes):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.rmtree(notes, ignore_errors=True)


def _uses(home: Path, copy: Path) -> bool:
    """Return True if a submission from `home`, or from a stage of the study at `home`, uses the copy or is being made."""
    if submissions.is_being_submitted(home):
        return True
    holders = [home, *(path for path in home.glob("*") if path.is_dir())]
    records = [each.record for holder in holders for each in SubmissionHome(holder).submission_dirs()]
    return any(copy.name in Path(path).parts for each in records for path in read_mapping(each).get("code", ()))


def _notes(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}{_NOTES}")


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Let only one process at a time change the store."""
    store.mkdir(parents=True, exist_ok=True)
    lock = Lock(store / "changing.json")
    while not lock.take():
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
