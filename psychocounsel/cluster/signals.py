"""Forwarding of Ctrl-C and other signals from a launcher to its processes."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def passed_on(send: Callable[[int], None], said: str) -> Iterator[list[int]]:
    """In this block, the first SIGINT, SIGTERM or SIGUSR1 is forwarded as a stop request (SIGTERM), later ones as SIGKILL.

    The first one prints `said`. Yields the list of received signals.
    """
    came: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        came.append(number)
        if len(came) == 1:
            clear = "\r\033[K" if sys.stderr.isatty() else ""  # clears the progress bar of a rank on this line
            print(f"{clear}{said} (repeat to stop at once)", file=sys.stderr, flush=True)
        send(signal.SIGTERM if len(came) == 1 else signal.SIGKILL)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
