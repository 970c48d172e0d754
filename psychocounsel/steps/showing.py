"""Shows progress: a bar on a terminal, a line a minute elsewhere, and `state.json` for `jobs status`."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from psychocounsel.storage.files import readable_time

T = TypeVar("T")

_STATE_SECONDS = 5.0  # between two writes of state.json
_LINE_SECONDS = 60.0  # between two lines if the output is not a terminal


class Showing:
    """Reports the progress of a step. `write_state(phase, done, total)` writes `state.json`."""

    def __init__(self, write_state: Callable[[str, int, int | None], None], say: Callable[[str], None]) -> None:
        self.write_state, self.say = write_state, say
        self.live = sys.stderr.isatty()
        self.step = ""

    def begin(self, step: str) -> None:
        self.step = step
        self.write_state(step, 0, None)

    def bar(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items and report how many are done. `total` defaults to the length of `items`, if known."""
        if total is None and hasattr(items, "__len__"):
            total = len(items)  # type: ignore[arg-type]
        started = stated = said = time.monotonic()
        shown: Any = tqdm(items, what, total=total, leave=False, disable=not self.live, dynamic_ncols=True)
        for done, item in enumerate(shown, 1):
            yield item
            now = time.monotonic()
            if now - stated >= _STATE_SECONDS:
                stated = now
                self.write_state(self.step, done, total)
            if not self.live and now - said >= _LINE_SECONDS:
                said = now
                self.say(line(what, done, total, now - started))


def line(what: str, done: int, total: int | None, seconds: float) -> str:
    """Return a progress line such as `replies: 400 of 2,000, 3 min left`."""
    if total is None:
        return f"{what}: {done:,}"
    left = readable_time(seconds / done * max(0, total - done))
    return f"{what}: {done:,} of {total:,}, {left} left"
