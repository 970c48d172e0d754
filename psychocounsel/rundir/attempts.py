"""The attempts at a run: `logs/01`, `logs/02` and so on, under SLURM each with what came of it."""

import os
import time
from pathlib import Path
from typing import Any

from psychocounsel.rundir.paths import AttemptDir, RunDir
from psychocounsel.storage.files import read_mapping, write_json

BEGAN, LAUNCHED = "PSYCHOCOUNSEL_BEGAN", "PSYCHOCOUNSEL_LAUNCHED"  # when command and processes began [s since 1970]

_engine_log: list[Path] = []  # of this process


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """What is written down of every attempt under SLURM, oldest first, with its `number`."""
    files = RunDir(run_dir)
    found = [(number, files.attempt(number).record) for number in files.attempt_numbers()]
    return [{**read_mapping(record), "number": number} for number, record in found if record.exists()]


def next_number(run_dir: Path) -> int:
    """The number of the next attempt, wherever the earlier ones ran."""
    return max(RunDir(run_dir).attempt_numbers(), default=0) + 1


def note_attempt(attempt: AttemptDir, **about: Any) -> None:
    """Add to what is written down of an attempt."""
    write_json(attempt.record, {**read_mapping(attempt.record), **about})


def start_times() -> dict[str, str]:
    """Return the environment variables that tell processes, launched now, when their command began.

    The first run of a command began with it; the later runs of a sweep begin when they are launched.
    """
    now = str(time.time())
    return {BEGAN: os.environ.pop(BEGAN, now), LAUNCHED: now}


def keep_engine_log(file: Path) -> None:
    """From now on the engines of this process start with what they print in `file`."""
    _engine_log[:] = [file]


def engine_log() -> Path | None:
    """Where what an engine prints at its start belongs; None outside of a run."""
    return _engine_log[0] if _engine_log else None
