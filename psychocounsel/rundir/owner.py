"""One live process owns a run directory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psychocounsel.errors import CONTINUE_LATER, UserError
from psychocounsel.storage.locks import Lock, holder


@contextmanager
def ownership(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` while the block runs; a dead or silent owner is taken over.

    Raises:
        UserError: if a live process owns it, naming host and process.
    """
    lock = Lock(_lock(run_dir), lambda: _give_up(run_dir))
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
    if owner := holder(_lock(run_dir)):
        raise UserError(
            f"{run_dir} is in use by process {owner['pid']} on {owner['host']}: wait for it, stop it with "
            f"`touch {run_dir}/stop`, or use another run_dir"
        )


def _lock(run_dir: Path) -> Path:
    return run_dir / "owner.json"


def _give_up(run_dir: Path) -> None:
    message = f"error: {run_dir} was taken over by another process: this one was silent for too long"
    print(message, file=sys.stderr, flush=True)
    os._exit(CONTINUE_LATER)
