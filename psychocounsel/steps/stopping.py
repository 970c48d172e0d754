"""Stop requests (Ctrl-C, SIGTERM, SIGUSR1, `touch OUT/stop`): a step waits for the calls under way, and then ends."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.asking.model_groups import model_sections
from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.rundir.paths import RunDir

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 20.0  # for closing connections and files


def grace_of(config: DictConfig) -> float:
    """Return how long a stop request waits for answers under way [s], because they must be paid for anyway.

    This is the longest `timeout_seconds` of any model plus 20 s. A SLURM job gets only the 20 s, because it is killed soon.
    """
    if "SLURM_JOB_ID" in os.environ:
        return _GRACE_SECONDS
    waits = [float(section.get("timeout_seconds") or 0.0) for _, _, section in model_sections(config)]
    return max(waits, default=0.0) + _GRACE_SECONDS


@contextlib.contextmanager
def stoppable(run_dir: Path, grace_seconds: float, last_words: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Inside the block, a stop request raises KeyboardInterrupt in the main thread.

    If the block has not ended `grace_seconds` after the request, `last_words` is called and the process exits with code 75.
    """
    file, done = RunDir(run_dir).stop, threading.Event()
    file.unlink(missing_ok=True)  # a leftover that stopped the previous attempt

    def end() -> None:
        if not done.is_set():
            last_words()
            os._exit(CONTINUE_LATER)

    def interrupt(number: int, frame: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # a second request must not interrupt the cleaning up
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
