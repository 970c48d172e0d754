"""Text printed above a progress bar: the bar is cleared before each line and drawn again below it."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm


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
    replaced: dict[TextIO, Any] = {stream: LinesAboveBar(stream, err) for stream in (out, err) if stream.isatty()}
    handlers = [each for each in _handlers() if any(each.stream is stream for stream in replaced)]
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
    named = [each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    found = {id(handler): handler for logger in [logging.root, *named] for handler in logger.handlers}
    return [handler for handler in found.values() if "stream" in vars(handler)]
