"""Lock files that work on NFS and Lustre: created by hard link, kept fresh by a heartbeat, taken over when stale; no flock."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from psychocounsel.storage.files import temporary_name
from psychocounsel.storage.modes import file_mode

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 90.0
_POLL_SECONDS = 0.05
_ENDED = ("Z", "X", "x")  # states in /proc/PID/stat of an ended process: zombie (not yet reaped), dead


class Lock:
    """A lock file of this process, with a heartbeat between `take` and `release`.

    `lost` is called if another process takes the lock over.
    """

    def __init__(self, path: Path, lost: Callable[[], None] = lambda: None) -> None:
        self.path, self._lost = path, lost
        me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid())}
        self._content = json.dumps({**me, "job": os.environ.get("SLURM_JOB_ID"), "id": uuid.uuid4().hex})
        self._done = threading.Event()
        self._beat = threading.Thread(target=self._beat_until_done, daemon=True)

    def take(self) -> bool:
        """Take the lock. A lock of a dead or silent process is taken over; if a live process holds it, the result is False.

        After False it may be called again; after True the lock is taken, and the object cannot take it a second time.

        Raises:
            OSError: if no file can be created in the folder.
        """
        while True:
            held = _read(self.path)
            if held is not None and _is_live(self.path, held):
                return False
            if held is not None:
                _take_away(self.path, held)
            if _create(self.path, self._content):
                self._beat.start()
                return True

    def release(self) -> None:
        self._done.set()
        self._beat.join()
        if _read(self.path) == self._content:
            self.path.unlink(missing_ok=True)

    def _beat_until_done(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # the file server may fail briefly: the next beat tries again
                if _read(self.path) not in (self._content, None) and not self._done.is_set():
                    self._lost()
                    return
                os.utime(self.path)


def taken(path: Path) -> Lock:
    """Take a lock that others hold for moments only, and return it; waits for them."""
    lock = Lock(path)
    while not lock.take():
        time.sleep(_POLL_SECONDS)
    return lock


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock while the block runs; waits like `taken`."""
    lock = taken(path)
    try:
        yield
    finally:
        lock.release()


def holder(path: Path) -> dict[str, Any] | None:
    """Return the live process that holds the lock (`host`, `pid`), or None. Changes nothing."""
    held = _read(path)
    return json.loads(held) if held is not None and _is_live(path, held) else None


def forget(path: Path, job: str) -> None:
    """Remove the lock if a process of `job` holds it. Call it only once all processes of the job have ended."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        if json.loads(_read(path) or "")["job"] == job:
            path.unlink(missing_ok=True)


def _create(lock: Path, content: str) -> bool:
    """Create the lock file with its content in one step; False if it exists. A hard link is atomic on NFS, too."""
    draft = temporary_name(lock)
    try:
        draft.write_text(content)
        draft.chmod(file_mode())  # users who share the folder must be able to read the lock's owner
        os.link(draft, lock)
        return True
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)


def _read(lock: Path) -> str | None:
    try:
        return lock.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _is_live(lock: Path, content: str) -> bool:
    try:
        owner = json.loads(content)
        if owner["host"] == socket.gethostname():
            return _start_time(owner["pid"]) == owner["started"]
        return _age(lock) < STALE_SECONDS
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return False


def _start_time(pid: int) -> str | None:
    """Return the start time of a process on this host [clock ticks since boot], or None if it has ended.

    The start time tells a process from a later one with the same number. A zombie keeps both, but counts as ended.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in _ENDED else fields[18]


def _age(lock: Path) -> float:
    """Return the seconds since the last heartbeat, by the file server's clock, which may differ from ours.

    In a folder that this user cannot write to, for instance a colleague's, our clock must do.
    """
    probe, now = temporary_name(lock.with_name("clock")), time.time()
    with contextlib.suppress(OSError):
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    return now - lock.stat().st_mtime


def _take_away(lock: Path, stale: str) -> None:
    """Remove a stale lock. If another process has taken it over in the meantime, put that lock back."""
    aside = temporary_name(lock.with_name("stale"))
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != stale:
        with contextlib.suppress(FileExistsError):
            os.link(aside, lock)
    aside.unlink()
