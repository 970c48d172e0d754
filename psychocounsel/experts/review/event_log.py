"""Log of events: one JSON object per line, written to disk before the caller continues."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.storage.files import fsync_directory, write_atomically

Event = dict[str, Any]

_PRIVATE = 0o600


class EventLog:
    """Events of a file that one process at a time writes.

    Attributes:
        events: all events so far, in order. Callers must not change the list.

    Raises:
        UserError: if a line is not an event. An unfinished last line is cut off instead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = list[Event]()
        content = path.read_bytes() if path.exists() else b""
        # Bytes after the last newline are part of an event whose writer was killed before it reported success.
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            self.events.append(_event(line, f"{path}: line {number}"))
        self._file = self._opened()
        if whole < len(content):
            os.ftruncate(self._file, whole)

    def append(self, event: Event) -> None:
        """Add an event. It is on disk when this method returns.

        Raises:
            OSError: if it cannot be written. The file is then unchanged.
        """
        size = os.fstat(self._file).st_size
        line = (json.dumps(event) + "\n").encode()
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self.events.append(event)

    def keep(self, wanted: Callable[[Event], bool]) -> None:
        """Keep only the wanted events in the file, by one atomic replacement."""
        kept = [event for event in self.events if wanted(event)]
        write_atomically(self.path, "".join(json.dumps(event) + "\n" for event in kept), mode=_PRIVATE)
        os.close(self._file)
        self._file = self._opened()
        self.events[:] = kept

    def close(self) -> None:
        os.close(self._file)

    def _opened(self) -> int:
        new = not self.path.exists()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _PRIVATE)
        if new:
            fsync_directory(self.path.parent)
        return file


def _event(line: bytes, where: str) -> Event:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is damaged; restore the file from a copy, or remove that line") from error
    if not isinstance(found, dict):
        raise UserError(f"{where} is not an event; restore the file from a copy, or remove that line")
    return found
