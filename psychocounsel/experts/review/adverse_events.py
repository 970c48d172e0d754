"""Reports that a client may be a real person at risk: logged first, then passed to the study's contact."""

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from psychocounsel.experts.review.event_log import Event, EventLog

_AGAIN = 60.0  # seconds until a failed command is run again
_LIMIT = 60.0  # seconds that the command may take
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

    def report(self, expert: str, item: str | None, said: str) -> None:
        """Write a report to the log and wake the thread that notifies the contact."""
        with self._lock:
            number = len(self.reports) + 1
            report = {"kind": REPORT, "number": number, "time": datetime.now(UTC).isoformat(), "expert": expert}
            self._log.append({**report, "item": item, "said": said})
        self._print(f"REPORT {number} by {expert}: this may be a real person at risk; see {self._log.path}")
        self._wake.set()

    def untold(self) -> list[Event]:
        """Return the reports that the contact's command has not accepted."""
        with self._lock:
            told = {event["number"] for event in self._log.events if event["kind"] == TOLD}
            return [event for event in self.reports if event["number"] not in told]

    def close(self) -> None:
        self._ended = True
        self._wake.set()
        if self._command:
            self._thread.join(_LIMIT)
        self._log.close()

    def _deliver(self) -> None:
        accepted = set[int]()  # reports that the contact has, even if a full disk keeps the log from saying so
        while not self._ended:
            self._wake.clear()
            for report in self.untold():
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
            self._wake.wait(_AGAIN)

    def _print(self, line: str) -> None:
        """Print a line if the terminal can still be written; if it is gone, later reports must reach the contact all the same."""
        with suppress(OSError):
            self._say(line)

    def _failure(self, report: Event) -> str | None:
        try:
            done = subprocess.run(
                self._command, input=json.dumps(report).encode(), timeout=_LIMIT, capture_output=True, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"cannot be run ({type(error).__name__})"
        return f"ended with exit code {done.returncode}" if done.returncode else None
