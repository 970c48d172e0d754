"""Tests of the event log, and of reports of a person at risk."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.experts.review.log import AdverseEvents, EventLog
from tests.support.harness import ROOT

# Events: appended ones survive a kill, a half-written line does not

_WRITER = """
import sys
from pathlib import Path
from psychocounsel.experts.review.log import EventLog
log = EventLog(Path(sys.argv[1]))
for number in range(100_000):
    log.append({"number": number, "text": "\\u00e9\\n" * 50})
    print(number, flush=True)
"""


def test_what_was_said_to_be_saved_is_there_after_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "events.jsonl")]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 40:
            writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    log = EventLog(tmp_path / "events.jsonl")
    assert [event["number"] for event in log.events][:41] == list(range(41))


def test_a_half_line_is_cut_off_before_the_next_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"number": 0}\n{"number": 1')
    log = EventLog(path)
    log.append({"number": 2})
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"number": 0}, {"number": 2}]
    assert [event["number"] for event in EventLog(path).events] == [0, 2]


@pytest.mark.parametrize("line", ['{"number": 1', "[1]"])
def test_a_damaged_line_before_others_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "events.jsonl").write_text(f'{{"number": 0}}\n{line}\n{{"number": 2}}\n')
    with pytest.raises(UserError, match=r"events\.jsonl: line 2"):
        EventLog(tmp_path / "events.jsonl")


def test_its_owner_alone_can_read_it(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append({"number": 0})
    log.keep(lambda event: False)
    log.append({"number": 1})
    assert log.path.stat().st_mode & 0o077 == 0
    assert log.path.read_text() == '{"number": 1}\n'


# Reports: written to disk first, then passed to the contact's command until accepted


def contact(folder: Path, code: str) -> list[str]:
    """Return a command that appends each report to a file and then runs `code`."""
    script = folder / "contact.py"
    keeping = "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"
    script.write_text(f"{keeping}\n{code}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return [sys.executable, str(script), str(folder / "told.jsonl")]


def until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.05)


def test_a_report_reaches_the_contact_without_any_text_of_a_client(tmp_path: Path) -> None:
    said = list[str]()
    events = AdverseEvents(tmp_path / "adverse.jsonl", contact(tmp_path, ""), said.append)
    events.report("e01", "item7", "a street is named")
    until(lambda: not events.undelivered())
    events.close()
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [(each["expert"], each["item"], each["said"]) for each in told] == [("e01", "item7", "a street is named")]
    assert said == [f"REPORT 1 by e01: this may be a real person at risk; see {tmp_path / 'adverse.jsonl'}"]
    logged = [json.loads(line) for line in (tmp_path / "adverse.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in logged] == ["report", "told"]


def test_a_contact_who_was_not_reached_is_told_at_the_next_start(tmp_path: Path) -> None:
    said = list[str]()
    failing = AdverseEvents(tmp_path / "adverse.jsonl", contact(tmp_path, "sys.exit(3)"), said.append)
    failing.report("e01", None, "one")
    until(lambda: any("exit code 3" in line for line in said))
    failing.close()
    assert [report["said"] for report in failing.undelivered()] == ["one"]
    (tmp_path / "told.jsonl").unlink()
    again = AdverseEvents(tmp_path / "adverse.jsonl", contact(tmp_path, ""), said.append)
    until(lambda: not again.undelivered())
    again.report("e02", None, "two")
    until(lambda: not again.undelivered())
    again.close()
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [(each["number"], each["said"]) for each in told] == [(1, "one"), (2, "two")]


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = list[str]()
    events = AdverseEvents(tmp_path / "adverse.jsonl", [str(tmp_path / "none")], said.append)
    events.report("e01", None, "one")
    until(lambda: len(said) > 1)
    events.close()
    assert said[1] == "REPORT 1: review.contact.command cannot be run (FileNotFoundError); it will be run again"


def test_a_full_disk_does_not_keep_later_reports_from_the_contact(tmp_path: Path) -> None:
    """While the log cannot grow, the contact is told of a report once, and the log catches up when there is room again."""
    said, go = list[str](), tmp_path / "go"
    waiting = f"import time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"
    log = tmp_path / "adverse.jsonl"
    events = AdverseEvents(log, contact(tmp_path, waiting), said.append)
    events.report("e01", None, "one")
    until((tmp_path / "told.jsonl").exists)
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, most))
    try:
        go.touch()
        until(lambda: len(said) > 1, 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    events.report("e02", None, "two")
    until(lambda: not events.undelivered(), 5)
    events.close()
    told = [json.loads(line)["said"] for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert told == ["one", "two"]
    assert "has accepted it, but" in said[1] and "File too large" in said[1]
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["number"] for event in logged if event["kind"] == "told"] == [1, 2]


def test_a_closed_terminal_does_not_keep_reports_from_the_contact(tmp_path: Path) -> None:
    def gone(line: str) -> None:
        raise BrokenPipeError

    events = AdverseEvents(tmp_path / "adverse.jsonl", contact(tmp_path, ""), gone)
    events.report("e01", None, "one")
    until(lambda: not events.undelivered(), 5)
    assert not events.undelivered()
    events.close()
