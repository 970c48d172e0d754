"""A log of events: a JSON object a line, on disk before the caller goes on."""

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
    """The events of a file, which one process at a time writes.

    Attributes:
        events: all events so far, in their order. Nobody else changes the list.

    Raises:
        UserError: if a line other than an unfinished last one is no event.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = list[Event]()
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1  # a writer was killed after it: nobody was told that the rest was saved
        for number, line in enumerate(content[:whole].splitlines(), 1):
            self.events.append(_event(line, f"{path}: line {number}"))
        self._file = self._opened()
        if whole < len(content):
            os.ftruncate(self._file, whole)

    def append(self, event: Event) -> None:
        """Add an event; it is on disk when this returns.

        Raises:
            OSError: if it cannot be written; then nothing of it is in the file.
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
        """Remove all other events from the file, all at once."""
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
        raise UserError(f"{where} is no event; restore the file from a copy, or remove that line")
    return found
