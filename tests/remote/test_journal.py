"""Answered requests are never sent again, whatever happens to the process: real sockets, real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import UserError
from psychocounsel.remote.client import Client
from psychocounsel.remote.journal import Journal, request_key
from tests.remote.test_client import ask, double, numbers, read
from tests.support.answering import Reply, no_proxy, serving
from tests.support.harness import ROOT

__all__ = ["no_proxy"]


def test_what_is_in_the_journal_is_not_asked_again(tmp_path: Path) -> None:
    with serving(double) as server:
        assert ask(Client([server.address], "judge", journal=tmp_path), 5) == [0, 2, 4, 6, 8]
        assert ask(Client([server.address], "judge", journal=tmp_path), 7) == [0, 2, 4, 6, 8, 10, 12]
        assert sorted(numbers(server.asked)) == list(range(7))
        assert len(list(tmp_path.glob("*.jsonl"))) == 2, "each client writes its own file"
        same = Client([server.address], "judge", journal=tmp_path / "new")
        assert list(same.answers("/double", [{"number": 1}] * 4, read)) == [2] * 4
        assert len(server.asked) == 8, "equal requests are sent once"
    with serving(lambda payload, number: {"other": 1}) as server:
        with pytest.raises(UserError):
            ask(Client([server.address], "judge", journal=tmp_path / "bad"), 1)
        assert not list((tmp_path / "bad").iterdir()), "an invalid answer is not stored"


def test_keys_are_of_the_content_and_not_of_its_order() -> None:
    assert request_key("/a", {"x": 1, "y": [2]}) == request_key("/a", {"y": [2], "x": 1})
    keys = {
        request_key(route, payload) for route in ("/a", "/b") for payload in ({"x": 1}, {"x": 1.5}, {"x": "1"}, [1])
    }
    assert len(keys) == 8


def test_a_torn_last_line_is_forgotten_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    with serving(double) as server:
        ask(Client([server.address], "judge", journal=tmp_path, concurrency=1), 3)
        (file,) = tmp_path.glob("*.jsonl")
        content = file.read_bytes()
        file.write_bytes(content[:-4])
        assert ask(Client([server.address], "judge", journal=tmp_path), 3) == [0, 2, 4]
        assert numbers(server.asked) == [0, 1, 2, 2]
    file.write_bytes(content.replace(b'{"key"', b'{"kei"', 1))
    with pytest.raises(UserError, match=f"{file.name}: line 1 is damaged"):
        Journal(tmp_path)


_ASK = """
import sys
from pathlib import Path
from psychocounsel.remote.client import Client
client = Client([sys.argv[1]], "judge", concurrency=3, journal=Path(sys.argv[2]))
payloads = [{"number": number} for number in range(int(sys.argv[3]))]
print(sum(client.answers("/double", payloads, lambda answer, payload: answer["double"])))
"""


def test_a_killed_process_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    def steady(payload: Any, number: int) -> Reply:
        return Reply(hang=0.05, body=json.dumps(double(payload, number)).encode())

    with serving(steady) as server:
        command = [sys.executable, "-c", _ASK, server.address, str(tmp_path), "30"]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        while len(server.answered) < 10 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
        known = {number for number in range(30) if Journal(tmp_path).get(request_key("/double", {"number": number}))}
        before = len(server.asked)
        assert 6 <= len(known) < 20
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert int(again.stdout) == sum(2 * number for number in range(30))
        assert sorted(numbers(server.asked[before:])) == sorted(set(range(30)) - known)
        assert len(server.asked) <= 30 + 3, "only requests in progress at the kill"
