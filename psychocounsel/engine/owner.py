"""One live process owns a run directory. Works on NFS and Lustre: exclusive create, heartbeat, rename; no flock."""

import contextlib
import json
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psychocounsel.errors import CONTINUE_LATER, UserError

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 90.0


@contextmanager
def ownership(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` while the block runs; a dead or silent owner is taken over.

    Raises:
        UserError: if a live process owns it, naming host and process.
    """
    lock = run_dir / "owner.json"
    mine = json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid()), "id": uuid.uuid4().hex}
    )
    while not _create(lock, mine):
        held = _read(lock)
        refuse_if_owned(run_dir)
        if held is not None:
            _take_away(lock, held)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(lock, mine, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        if _read(lock) == mine:
            lock.unlink()


def refuse_if_owned(run_dir: Path) -> None:
    """Raise where a live process owns `run_dir`; changes nothing.

    Raises:
        UserError: naming host and process.
    """
    lock = run_dir / "owner.json"
    held = _read(lock)
    if held is not None and _is_live(lock, held):
        owner = json.loads(held)
        raise UserError(
            f"{run_dir} is in use by process {owner['pid']} on {owner['host']}: wait for it, stop it with "
            f"`touch {run_dir}/stop`, or use another run_dir"
        )


def _create(lock: Path, content: str) -> bool:
    """Create the lock with its content in one step: a hard link fails if the name exists, also on NFS."""
    draft = lock.with_name(f".owner.{uuid.uuid4().hex}")
    draft.write_text(content)
    try:
        os.link(draft, lock)
        return True
    except FileExistsError:
        return False
    finally:
        draft.unlink()


def _read(lock: Path) -> str | None:
    try:
        return lock.read_text()
    except FileNotFoundError:
        return None


def _is_live(lock: Path, content: str) -> bool:
    try:
        owner = json.loads(content)
        if owner["host"] == socket.gethostname():
            return _start_time(owner["pid"]) == owner["started"]
        return _age(lock) < STALE_SECONDS
    except (ValueError, KeyError, FileNotFoundError):
        return False


def _start_time(pid: int) -> str | None:
    """When a process of this host started (clock ticks since boot): tells it from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def _age(lock: Path) -> float:
    """Seconds since the last heartbeat by the file server's own clock, which may differ from ours."""
    probe = lock.with_name(f".clock.{uuid.uuid4().hex}")
    probe.touch()
    try:
        return probe.stat().st_mtime - lock.stat().st_mtime
    finally:
        probe.unlink()


def _take_away(lock: Path, judged: str) -> None:
    """Remove a stale lock; if another process took it over in the meantime, put theirs back."""
    aside = lock.with_name(f".owner.stale.{uuid.uuid4().hex}")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != judged:
        with contextlib.suppress(FileExistsError):
            os.link(aside, lock)
    aside.unlink()


def _beat(lock: Path, mine: str, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):  # a file server's hiccup: the next beat tries again
            if _read(lock) not in (mine, None) and not done.is_set():
                message = f"error: {lock.parent} was taken over by another process: this one was silent for too long"
                print(message, file=sys.stderr, flush=True)
                os._exit(CONTINUE_LATER)
            os.utime(lock)
