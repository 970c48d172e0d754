"""Tests of `watch`: the page follows its files, is served to this machine only, and ends with Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.harness import ROOT

# Makes a report of one metrics file: its last loss as text, and a chart of all losses.
SCRIPT = """
import json, signal, sys
from pathlib import Path
from psychocounsel.errors import UserError
from psychocounsel.blocks.kinds import Chart, Curve, Paragraph, Report, Section
from psychocounsel.reporting.watching import watch

folder = Path(sys.argv[1])

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it

def make():
    try:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except ValueError:
        raise UserError("metrics.jsonl: a line is half written")
    loss = [line["loss"] for line in lines]
    said = [Paragraph(f"The last loss is {loss[-1]}.") for _ in range(30)]
    chart = Chart("loss", "Loss", "loss", [Curve("run", {"steps": range(len(loss))}, loss)])
    return Report("One run", [str(folder)], [Section("all", "All", [*said, chart])], live=True)

watch(make)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    add(tmp_path / "run", 0.7)
    return tmp_path / "run"


def add(run: Path, loss: float) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"loss": loss}) + "\n")


@pytest.fixture
def served(run: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Yield the address and the process that serves it."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(run)], env=os.environ, **pipes)
    assert process.stdout
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, process.stderr and process.stderr.read()
    yield found[0], process
    process.kill()
    process.communicate()


def asked(address: str, path: str = "", host: str | None = None) -> tuple[int, str]:
    parts = urlsplit(address)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.request("GET", (parts.path + path) if path != "/" else "/", headers={"Host": host or parts.netloc})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.slow
def test_an_open_page_follows_a_line_of_metrics_and_keeps_its_place(browser: Any, run: Path, served: Any) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 500})
    seen = list[str]()
    page.on("request", lambda request: seen.append(request.url))
    page.goto(served[0])
    page.get_by_text("The last loss is 0.7.").first.wait_for()
    page.evaluate("scrollTo(0, 700)")
    add(run, 0.4375)
    page.get_by_text("The last loss is 0.4375.").first.wait_for(timeout=60_000)
    page.locator("#chart-loss[data-drawn]").wait_for()
    assert page.evaluate("scrollY") == 700
    assert {url.removeprefix(served[0]) for url in seen} == {"", "version"}
    page.close()


def test_only_who_has_the_address_and_comes_by_it_is_answered(served: Any) -> None:
    address = served[0]
    parts = urlsplit(address)
    assert parts.hostname == "127.0.0.1" and len(parts.path) > 20
    assert asked(address)[0] == asked(address, "version")[0] == 200
    assert asked(address, host=f"localhost:{parts.port}")[0] == 200
    assert asked(address, host=f"evil.example:{parts.port}")[0] == 404, "another name that resolves to this address"
    assert asked(address, "/")[0] == asked(address, "other")[0] == 404
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', asked(address)[1])
    assert policy and "connect-src &#39;self&#39;" in policy[1] and "default-src &#39;none&#39;" in policy[1]


def test_ctrl_c_ends_it_with_one_line(served: Any) -> None:
    _, process = served
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out.strip(), err) == (0, "The report is no longer served.", "")


@pytest.mark.slow
def test_files_that_cannot_be_read_just_now_leave_the_page(run: Path, served: Any) -> None:
    address, process = served
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"loss": 0.')
    assert process.stderr.readline() == "the page is unchanged: metrics.jsonl: a line is half written\n"
    status, text = asked(address)
    assert status == 200 and "The last loss is 0.7." in text and asked(address, "version") == (200, "1")


@pytest.mark.slow
def test_a_file_that_changes_no_figure_reloads_nobody(run: Path, served: Any) -> None:
    (run / "state.json").write_text("{}")
    add(run, 0.5)
    address = served[0]
    ends = time.monotonic() + 60
    while asked(address, "version") != (200, "2"):
        assert time.monotonic() < ends
        time.sleep(0.1)
    (run / "state.json").write_text('{"heartbeat": 1}')
    time.sleep(7)
    assert asked(address, "version") == (200, "2")
