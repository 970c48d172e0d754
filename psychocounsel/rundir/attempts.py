"""Attempts of a run: `logs/01`, `logs/02` and so on, under SLURM each with a record of its job and end."""

import os
import time
from pathlib import Path
from typing import Any

from psychocounsel.rundir.paths import AttemptDir, RunDir
from psychocounsel.storage.files import read_mapping, write_json

BEGAN, LAUNCHED = (
    "PSYCHOCOUNSEL_BEGAN",
    "PSYCHOCOUNSEL_LAUNCHED",
)  # start of the command, and of its processes [s since 1970]

_engine_log: list[Path] = []  # of this process; empty or one file


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """Return the records of all attempts under SLURM, oldest first, each with its `number`."""
    files = RunDir(run_dir)
    found = [(number, files.attempt(number).record) for number in files.attempt_numbers()]
    return [{**read_mapping(record), "number": number} for number, record in found if record.exists()]


def next_number(run_dir: Path) -> int:
    """Return the number of the next attempt, counting attempts on any cluster."""
    return max(RunDir(run_dir).attempt_numbers(), default=0) + 1


def note_attempt(attempt: AttemptDir, **about: Any) -> None:
    """Add facts to the record of an attempt."""
    write_json(attempt.record, {**read_mapping(attempt.record), **about})


def start_times() -> dict[str, str]:
    """Return the environment variables that tell processes, launched now, when their command began.

    The first run of a command began with it; the later runs of a sweep begin when they are launched.
    """
    now = str(time.time())
    return {BEGAN: os.environ.pop(BEGAN, now), LAUNCHED: now}


def keep_engine_log(file: Path) -> None:
    """Set the file that receives the output of inference engines starting in this process."""
    _engine_log[:] = [file]


def engine_log() -> Path | None:
    """Return the file for the output of an engine's start; None outside of a run."""
    return _engine_log[0] if _engine_log else None
