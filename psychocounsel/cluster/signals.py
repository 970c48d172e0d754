"""Ctrl-C and other signals to a launcher, passed on to what it has started."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def passed_on(send: Callable[[int], None], said: str) -> Iterator[list[int]]:
    """While it lasts, the first SIGINT, SIGTERM or SIGUSR1 becomes a stop request (SIGTERM), the next ones SIGKILL.

    `said` is what the first does. Yields the list of those that came.
    """
    came: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        came.append(number)
        if len(came) == 1:
            clear = "\r\033[K" if sys.stderr.isatty() else ""  # a rank may show a progress bar on this line
            print(f"{clear}{said} (once more: at once)", file=sys.stderr, flush=True)
        send(signal.SIGTERM if len(came) == 1 else signal.SIGKILL)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
