"""Tests of the event log: appended events survive a kill, a half-written line does not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.experts.review.event_log import EventLog
from tests.support.harness import ROOT

_WRITER = """
import sys
from pathlib import Path
from psychocounsel.experts.review.event_log import EventLog
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
