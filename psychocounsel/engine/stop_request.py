"""Early ends: stop requests, and a watchdog for hangs."""

import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.rundir.paths import RunDir


class StopRequest:
    """A request to stop: SIGTERM, SIGINT or SIGUSR1 to this process, or the file `RUN/stop`. The loop checks between steps.

    Only rank 0 looks for the file, because a shared file system may still show it to other nodes after rank 0 removed
    it.
    """

    def __init__(self, run_dir: Path, is_main: bool) -> None:
        self.file, self.is_main, self.signalled = RunDir(run_dir).stop, is_main, False
        if is_main:
            self.file.unlink(missing_ok=True)  # it was meant for the previous attempt
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.signalled = True

    def requested(self) -> bool:
        return self.signalled or (self.is_main and self.file.exists())


class Watchdog:
    """Ends the process with code 75 if `alive()` was not called for `minutes`; before that, it writes all stacks to `log`."""

    def __init__(self, minutes: float, log: IO[str]) -> None:
        self.seconds, self.log = minutes * 60, log
        self.last = time.monotonic()
        self.done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> None:
        self.last = time.monotonic()

    def stop(self) -> None:
        self.done.set()

    def _watch(self) -> None:
        while not self.done.wait(min(5.0, self.seconds / 4)):
            silent = time.monotonic() - self.last
            if silent > self.seconds:
                message = f"no progress for {silent / 60:.1f} minutes (engine.watchdog_minutes={self.seconds / 60:g}): giving up"
                print(message, file=self.log, flush=True)
                faulthandler.dump_traceback(self.log)
                self.log.flush()
                print(f"error: {message}; stacks are in {self.log.name}", file=sys.stderr, flush=True)
                os._exit(CONTINUE_LATER)
