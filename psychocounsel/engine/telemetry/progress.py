"""Progress shown to the user during training."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, nullcontext
from typing import IO, Any, TypeVar

from tqdm import tqdm

from psychocounsel.engine.telemetry.around_bar import lines_above_bars

T = TypeVar("T")

_SHOWN = {
    "loss": "loss",
    "rewards/accuracy": "accuracy",
    "rewards/margin": "margin",
    "rollout/reward": "reward",
    "eval/loss": "held-out loss",
    "eval/reward": "held-out reward",
}


class Progress:
    """A progress bar on a terminal; in `log` and in redirected output, a line after each tenth of the steps."""

    def __init__(self, is_main: bool, log: IO[str] | None = None) -> None:
        self.is_main, self.live, self.log = is_main, is_main and sys.stderr.isatty(), log
        self.steps: tqdm | None = None
        self._shown = ExitStack()

    def bar(self, items: Iterable[T], text: str) -> Iterator[T]:
        with lines_above_bars() if self.live else nullcontext():
            yield from tqdm(items, text, leave=False, disable=not self.live)

    def start(self, step: int, total: int) -> None:
        self.total, self.every = total, max(1, total // 10)
        if self.live:
            self.steps = tqdm(total=total, initial=step, desc="training", unit="step", dynamic_ncols=True)
            self._shown.enter_context(lines_above_bars())

    def update(self, step: int, line: dict[str, Any]) -> None:
        shown = {word: f"{line[name]:.3f}" for name, word in _SHOWN.items() if name in line}
        if self.steps is not None:
            self.steps.n = step
            self.steps.set_postfix(shown)
        if step % self.every and step != self.total:
            return
        text = f"step {step}/{self.total}: " + ", ".join(f"{word} {value}" for word, value in shown.items())
        if self.log is not None:
            print(text, file=self.log)
        if self.is_main and not self.live:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the bar. A second call does nothing."""
        if self.steps is not None:
            self.steps.close()
            self.steps = None
        self._shown.close()


def quiet_libraries() -> None:
    """Silence warnings and log messages of libraries; psychocounsel prints the messages that users need.

    Transformers is also kept from importing scikit-learn (0.7 s) and scipy.optimize (0.15 s), because only assisted
    generation and losses of object detection use them.
    """
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import transformers

    for name in ("is_sklearn_available", "is_scipy_available"):
        setattr(transformers.utils, name, lambda: False)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
