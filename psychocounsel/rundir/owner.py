"""One live process owns a run directory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psychocounsel.errors import CONTINUE_LATER, UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.locks import Lock, holder


@contextmanager
def ownership(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` while the block runs; a dead or silent owner is taken over.

    Raises:
        UserError: if a live process owns it, naming host and process.
    """
    lock = Lock(RunDir(run_dir).owner, lambda: _give_up(run_dir))
    while not lock.take():
        refuse_if_owned(run_dir)
    try:
        yield
    finally:
        lock.release()


def refuse_if_owned(run_dir: Path) -> None:
    """Raise where a live process owns `run_dir`; changes nothing.

    Raises:
        UserError: naming host and process.
    """
    if owner := live_owner(run_dir):
        raise UserError(
            f"{run_dir} is in use by process {owner['pid']} on {owner['host']}: wait for it, stop it with "
            f"`touch {RunDir(run_dir).stop}`, or use another run_dir"
        )


def live_owner(run_dir: Path) -> dict[str, Any] | None:
    """The live process that works in `run_dir` (`host`, `pid`), or None; changes nothing."""
    return holder(RunDir(run_dir).owner)


def forget_owner(run_dir: Path) -> None:
    """For who knows that the owner has ended, though its lock still looks fresh."""
    RunDir(run_dir).owner.unlink(missing_ok=True)


def _give_up(run_dir: Path) -> None:
    message = f"error: {run_dir} was taken over by another process: this one was silent for too long"
    print(message, file=sys.stderr, flush=True)
    os._exit(CONTINUE_LATER)
