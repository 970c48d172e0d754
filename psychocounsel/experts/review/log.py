"""Log of a review's events, and reports that a client may be a real person at risk."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.storage.files import fsync_directory, json_lines, write_atomically

# Events: one JSON object per line, written to disk before the caller continues

Event = dict[str, Any]

PRIVATE = 0o600  # mode of every file of a review


class EventLog:
    """Events of a file that one process at a time writes.

    Attributes:
        events: all events so far, in order. Callers must not change the list.

    Raises:
        UserError: if a line is not an event. An unfinished last line is cut off by the first change instead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = list[Event]()
        content = path.read_bytes() if path.exists() else b""
        # Bytes after the last newline are part of an event whose writer was killed before it reported success.
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            self.events.append(_event(line, f"{path}: line {number}"))
        self._file, self._whole = self._opened(), whole

    def append(self, event: Event) -> None:
        """Add an event. It is on disk when this method returns.

        Raises:
            OSError: if it cannot be written. The file is then unchanged.
        """
        size = self._whole
        os.ftruncate(self._file, size)
        line = (json.dumps(event) + "\n").encode()
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self._whole += len(line)
        self.events.append(event)

    def keep(self, wanted: Callable[[Event], bool], *added: Event) -> None:
        """Keep only the wanted events in the file and add others, by one atomic replacement."""
        kept = [*filter(wanted, self.events), *added]
        content = json_lines(kept)
        write_atomically(self.path, content, mode=PRIVATE)
        os.close(self._file)
        self._file, self._whole = self._opened(), len(content)
        self.events[:] = kept

    def close(self) -> None:
        os.close(self._file)

    def _opened(self) -> int:
        new = not self.path.exists()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
        if new:
            fsync_directory(self.path.parent)
        return file


def _event(line: bytes, where: str) -> Event:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged; restore the file from a copy, or remove that line") from error
    if not isinstance(event, dict):
        raise UserError(f"{where} is not an event; restore the file from a copy, or remove that line")
    return event


# Reports of a person at risk, passed to the contact of the study

_RETRY_SECONDS = 60.0  # seconds until a failed command is run again
_COMMAND_SECONDS = 60.0  # seconds that the command may take
REPORT, TOLD = "report", "told"


class AdverseEvents:
    """Log of reports. A thread passes each report to the contact's command until the command accepts it.

    The command reads a report as JSON from its standard input: number, time, expert, item and the expert's words, without any
    client text. Exit code 0 means that the report is accepted.
    """

    def __init__(self, path: Path, command: Sequence[str], say: Callable[[str], None]) -> None:
        self._log, self._command, self._say = EventLog(path), list(command), say
        self._lock, self._wake, self._ended = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        if self._command:
            self._thread.start()

    @property
    def reports(self) -> list[Event]:
        return [event for event in self._log.events if event["kind"] == REPORT]

    def report(self, expert: str, item: str | None, words: str) -> None:
        """Write a report to the log and wake the thread that notifies the contact."""
        with self._lock:
            number = len(self.reports) + 1
            report = {"kind": REPORT, "number": number, "time": datetime.now(UTC).isoformat(), "expert": expert}
            self._log.append({**report, "item": item, "said": words})
        self._print(f"REPORT {number} by {expert}: this may be a real person at risk; see {self._log.path}")
        self._wake.set()

    def undelivered(self) -> list[Event]:
        """Return the reports that the contact's command has not accepted."""
        with self._lock:
            told = {event["number"] for event in self._log.events if event["kind"] == TOLD}
            return [event for event in self.reports if event["number"] not in told]

    def close(self) -> None:
        self._ended = True
        self._wake.set()
        if self._command:
            self._thread.join(_COMMAND_SECONDS)
        self._log.close()

    def _deliver(self) -> None:
        accepted = set[int]()  # reports that the contact has, even if a full disk keeps the log from saying so
        while not self._ended:
            self._wake.clear()
            for report in self.undelivered():
                number = report["number"]
                if number not in accepted and (reason := self._failure(report)):
                    self._print(f"REPORT {number}: review.contact.command {reason}; it will be run again")
                    continue
                accepted.add(number)
                try:
                    with self._lock:
                        self._log.append({"kind": TOLD, "number": number, "time": datetime.now(UTC).isoformat()})
                except OSError as error:
                    self._print(
                        f"REPORT {number}: review.contact.command has accepted it, but {self._log.path} cannot be written "
                        f"({error.strerror}); make room, or the command will be run again after a restart"
                    )
            self._wake.wait(_RETRY_SECONDS)

    def _print(self, line: str) -> None:
        """Print a line if the terminal can still be written; if it is gone, later reports must reach the contact all the same."""
        with suppress(OSError):
            self._say(line)

    def _failure(self, report: Event) -> str | None:
        try:
            done = subprocess.run(
                self._command,
                input=json.dumps(report).encode(),
                timeout=_COMMAND_SECONDS,
                capture_output=True,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"cannot be run ({type(error).__name__})"
        return f"ended with exit code {done.returncode}" if done.returncode else None
