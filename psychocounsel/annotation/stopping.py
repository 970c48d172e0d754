"""Ctrl-C, SIGTERM and `touch OUT/stop`: whatever a step is at, it ends at once, because all that was bought is on disk."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.rundir.paths import RunDir

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 20.0  # for servers to be left and files to be closed


@contextlib.contextmanager
def stoppable(run_dir: Path) -> Iterator[None]:
    """While it lasts, a stop request raises KeyboardInterrupt in the main thread; a process that hangs then ends with code 75."""
    file, done = RunDir(run_dir).stop, threading.Event()
    file.unlink(missing_ok=True)  # it stopped the attempt before this one

    def interrupt(number: int, frame: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # once: cleaning up is not interrupted
        late = threading.Timer(_GRACE_SECONDS, lambda: None if done.is_set() else os._exit(CONTINUE_LATER))
        late.daemon = True
        late.start()
        raise KeyboardInterrupt

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            if file.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    threading.Thread(target=watch, daemon=True, name="stop").start()
    try:
        yield
    finally:
        done.set()
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
