"""Seconds of a run's start by phase, from the command to the first optimizer step."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psychocounsel.rundir.attempts import BEGAN, LAUNCHED
from psychocounsel.rundir.run import Run

_WORTH_A_LINE = 1.0  # seconds after which a phase is announced
_SHOWN = 0.5  # seconds: shorter phases are counted as "other"


class Phases:
    """Measures phases one after another; rank 0 prints. After `ready` it measures nothing."""

    def __init__(self, run: Run) -> None:
        self.run, now = run, time.time()
        launched = float(os.environ.get(LAUNCHED, now))
        self.began = float(os.environ.get(BEGAN, launched))
        self.seconds: dict[str, float] = {"settings": launched - self.began, "imports": now - launched}
        self.total: float | None = None  # until the run is ready

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Context whose seconds count as phase `name`. A phase that takes longer than a second is announced."""
        if self.total is not None:
            yield
            return
        started = time.time()
        announcement = threading.Timer(_WORTH_A_LINE, self.run.say, [f"loading: {name}"])
        announcement.daemon = True
        announcement.start()
        try:
            yield
        finally:
            announcement.cancel()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.time() - started

    def ready(self) -> None:
        """Print the seconds of the start, in total and by phase. A second call does nothing."""
        if self.total is None:
            self.total = round(time.time() - self.began, 2)  # the digits of the summary
            self.run.say(ready_line(self.total, self.seconds))

    def summary(self) -> dict[str, Any]:
        """Return the entry of `summary.json`; {} if the run ended before its first step."""
        if self.total is None:
            return {}
        parts = {name: round(seconds, 2) for name, seconds in self.seconds.items()}
        return {"startup": {"seconds": self.total, "phases": parts}}


def ready_line(total: float, seconds: dict[str, float]) -> str:
    """Return `ready in 41 s: imports 9 s, data 2 s, ...`, with the rest as "other"."""
    shown = {name: each for name, each in seconds.items() if each >= _SHOWN}
    if (rest := total - sum(shown.values())) >= _SHOWN:
        shown["other"] = rest
    parts = ", ".join(f"{name} {each:.0f} s" for name, each in shown.items())
    return f"ready in {total:.0f} s" + (f": {parts}" if parts else "")
