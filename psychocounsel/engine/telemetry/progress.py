"""Progress shown to the user during training."""

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import IO, Any, TextIO, TypeVar

from tqdm import tqdm

from psychocounsel.errors import controlled
from psychocounsel.steps.running import TimedBar

# Text printed above a progress bar: the bar is cleared before each line and drawn again below it.


class LinesAboveBar:
    """A text stream that writes whole lines to the terminal `stream`, above the bars of the terminal `bars`."""

    def __init__(self, stream: TextIO, bars: TextIO) -> None:
        self._stream, self._bars, self._begun, self._lock = stream, bars, "", threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            lines, newline, self._begun = (self._begun + text).rpartition("\n")
            if newline:
                with tqdm.external_write_mode(file=self._bars):
                    self._stream.write(lines + newline)
                    self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Do nothing: an incomplete line is not shown, because the bar would be drawn over it."""

    def close_line(self) -> None:
        """Complete an unfinished line, after the bar is closed."""
        if self._begun:
            self.write("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lines_above_bars() -> Iterator[None]:
    """Context in which `print`, `sys.stderr` and log handlers write whole lines above the bars of the terminal.

    Standard output is unchanged if it is not a terminal. A context inside another one does nothing.
    """
    out, err = sys.stdout, sys.stderr
    if isinstance(err, LinesAboveBar):
        yield
        return
    replaced: dict[TextIO, Any] = {
        stream: LinesAboveBar(stream, controlled(err)) for stream in (out, err) if stream.isatty()
    }
    handlers = [handler for handler in _handlers() if any(handler.stream is stream for stream in replaced)]
    for handler in handlers:
        handler.setStream(replaced[handler.stream])
    sys.stdout, sys.stderr = replaced.get(out, out), replaced.get(err, err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        streams = {lines: stream for stream, lines in replaced.items()}
        for handler in handlers:
            handler.setStream(streams[handler.stream])
        for lines in streams:
            lines.close_line()


def _handlers() -> list[Any]:
    """Return the log handlers that keep a stream; other handlers look up `sys.stderr` whenever they write."""
    named = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    handlers = {id(handler): handler for logger in [logging.root, *named] for handler in logger.handlers}
    return [handler for handler in handlers.values() if "stream" in vars(handler)]


T = TypeVar("T")

_SHOWN = {
    "loss": "loss",
    "rewards/accuracy": "accuracy",
    "rewards/margin": "margin",
    "rollout/reward": "reward",
    "eval/loss": "held-out loss",
    "eval/reward": "held-out reward",
    "rollout/kl_per_token": "divergence per token",
}


class Progress:
    """A progress bar on a terminal; in `log` and in redirected output, a line after each tenth of the steps."""

    def __init__(self, is_main: bool, log: IO[str] | None = None) -> None:
        self.is_main, self.live, self.log = is_main, is_main and sys.stderr.isatty(), log
        self.steps: TimedBar | None = None
        self.rounds = 0
        self._shown = ExitStack()

    def bar(self, items: Iterable[T], text: str) -> Iterator[T]:
        with lines_above_bars() if self.live else nullcontext():
            yield from TimedBar(items, text, leave=False, disable=not self.live)

    def start(self, step: int, total: int) -> None:
        self.total, self.every = total, max(1, total // 10)
        if self.live:
            self.steps = TimedBar(total=total, initial=step, desc="training", unit="step", dynamic_ncols=True)
            self._shown.enter_context(lines_above_bars())

    def update(self, step: int, line: dict[str, Any]) -> None:
        shown = {word: f"{line[name]:.3f}" for name, word in _SHOWN.items() if name in line}
        if self.steps is not None:
            if step == self.steps.initial:
                self.steps.unpause()  # the evaluation before training is no step
            self.rounds += "rollout/reward" in line
            self.steps.fewest = self.total if self.rounds == 1 else 1  # the first step of a round writes its replies
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
