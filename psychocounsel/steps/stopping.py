"""Stop requests (Ctrl-C, SIGTERM, `touch OUT/stop`) end a step after the calls that are under way."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.sections.annotation_groups import model_sections

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 20.0  # for servers to be left and files to be closed


def grace_of(config: DictConfig) -> float:
    """Seconds after a stop request in which answers that are under way may come: they are paid for.

    The longest `timeout_seconds` of a model, and some more for files. A job of SLURM has no such time before it is killed.
    """
    if "SLURM_JOB_ID" in os.environ:
        return _GRACE_SECONDS
    waits = [float(section.get("timeout_seconds") or 0.0) for _, _, section in model_sections(config)]
    return max(waits, default=0.0) + _GRACE_SECONDS


@contextlib.contextmanager
def stoppable(run_dir: Path, grace_seconds: float, last_words: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While it lasts, a stop request raises KeyboardInterrupt in the main thread.

    A process that has not left it `grace_seconds` later calls `last_words`, and ends with code 75.
    """
    file, done = RunDir(run_dir).stop, threading.Event()
    file.unlink(missing_ok=True)  # it stopped the attempt before this one

    def end() -> None:
        if not done.is_set():
            last_words()
            os._exit(CONTINUE_LATER)

    def interrupt(number: int, frame: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # once: cleaning up is not interrupted
        late = threading.Timer(grace_seconds, end)
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
