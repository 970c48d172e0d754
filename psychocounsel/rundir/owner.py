"""Ownership of a run directory by one live process."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psychocounsel.errors import CONTINUE_LATER, GoOnLater, UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.locks import STALE_SECONDS, Lock, forget, holder

PATIENCE_SECONDS = 2 * STALE_SECONDS  # a job's wait for an owner; a dead one on another host is noticed after half
_POLL_SECONDS = 1.0
_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "SGE_TASK_ID")


@contextmanager
def ownership(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` while the block runs; the lock of a dead or silent owner is taken over.

    Raises:
        UserError: if a live process owns the directory, naming host and process.
        GoOnLater: in a job, if that process still lives after `PATIENCE_SECONDS`.
    """
    lock = Lock(RunDir(run_dir).owner, lambda: _give_up(run_dir))
    while not lock.take():
        refuse_if_owned(run_dir)
    try:
        yield
    finally:
        lock.release()


def refuse_if_owned(run_dir: Path) -> None:
    """Raise if a live process owns `run_dir`; change nothing.

    In a job, wait for that process first, because nobody watches the job, and exit code 2 (wrong input) would end it
    for good.

    Raises:
        UserError: naming host and process.
        GoOnLater: in a job, if the process still lives after `PATIENCE_SECONDS`.
    """
    owner = live_owner(run_dir)
    if owner is None:
        return
    if not in_a_job():
        raise UserError(
            f"{run_dir} is in use by {_named(owner)}: wait for it, stop it with "
            f"`touch {RunDir(run_dir).stop}`, or use another run_dir{_if_it_died(owner)}"
        )
    print(
        f"{run_dir} is in use by {_named(owner)}: waiting up to {PATIENCE_SECONDS:.0f} s", file=sys.stderr, flush=True
    )
    end = time.monotonic() + PATIENCE_SECONDS
    while owner := live_owner(run_dir):
        if time.monotonic() >= end:
            raise GoOnLater(
                f"{run_dir} is still in use by {_named(owner)} after {PATIENCE_SECONDS:.0f} s: stop it with "
                f"`touch {RunDir(run_dir).stop}`; the same command resumes (exit code {CONTINUE_LATER})"
            )
        time.sleep(_POLL_SECONDS)


def in_a_job() -> bool:
    """Return True if a queue started this process, and not a person at a terminal (even inside `salloc`)."""
    at_a_terminal = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    return not at_a_terminal and any(os.environ.get(name) for name in _JOB_VARIABLES)


def live_owner(run_dir: Path) -> dict[str, Any] | None:
    """Return the live process that works in `run_dir` (`host`, `pid`), or None; change nothing."""
    return holder(RunDir(run_dir).owner)


def forget_owner(run_dir: Path, job: str) -> None:
    """Remove the lock of the SLURM job `job`, for a caller who knows that all its processes have ended."""
    forget(RunDir(run_dir).owner, job)


def _named(owner: dict[str, Any]) -> str:
    job = f" (job {owner['job']})" if owner.get("job") else ""
    return f"process {owner['pid']} on {owner['host']}{job}"


def _if_it_died(owner: dict[str, Any]) -> str:
    """Return advice for an owner on another host, whose death only its missing heartbeat shows; "" on this host."""
    if owner["host"] == socket.gethostname():
        return ""
    return f"; if that process is dead, the directory is free {STALE_SECONDS:.0f} s after its last heartbeat"


def _give_up(run_dir: Path) -> None:
    message = f"error: {run_dir} was taken over by another process, because this process gave no heartbeat for too long"
    print(message, file=sys.stderr, flush=True)
    os._exit(CONTINUE_LATER)
