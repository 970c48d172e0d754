"""Files of pairs for a review, and a client of the page that the `review` command serves."""

import contextlib
import json
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from tests.support.harness import forked, write_jsonl
from tests.support.warm import Forked

# Most tests need no practice items and no pauses. The tests of these two features set their own values.
QUICK = (
    "review.practice=0",
    "review.crisis_in_a_row=1000",
    "review.minutes_a_day=100000",
    "review.minutes_at_once=100000",
)


def pair(number: int, **more: Any) -> dict[str, Any]:
    """Return a pair of client `number`. The chosen reply begins with "Good", the rejected one with "Bad"."""
    texts = {"chosen": f"Good reply to client {number}.", "rejected": f"Bad reply to client {number}."}
    return {"id": f"p{number}", "prompt": f"I am client {number}, and I cannot sleep.", "risk": "none", **texts, **more}


def pairs_file(folder: Path, count: int, at_risk: int = 0) -> Path:
    """Write a file of `count` pairs. The clients of the first `at_risk` pairs think of suicide."""
    rows = [pair(number, risk="suicidal_thoughts" if number < at_risk else "none") for number in range(count)]
    write_jsonl(folder / "pairs.jsonl", rows)
    return folder / "pairs.jsonl"


@dataclass
class Served:
    """Running command that serves a review. `links` has the address for each expert, with a trailing slash."""

    process: Forked
    output: IO[str]
    links: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def client(self, expert: str) -> httpx.Client:
        return httpx.Client(base_url=self.links[expert], trust_env=False, follow_redirects=True)

    def agree(self, expert: str) -> httpx.Client:
        """Return an HTTP client of an expert after agreeing to the consent text."""
        client = self.client(expert)
        if version := re.search(r'name="version" value="(\w+)"', client.get("").text):
            assert "Item 1 of" in client.post("consent", data={"agree": "yes", "version": version[1]}).text
        return client

    def end(self, number: int = signal.SIGINT) -> str:
        """Send a signal and return the rest of the output."""
        self.process.send_signal(number)
        rest = self.output.read()
        self.process.wait(60)
        return rest


@contextlib.contextmanager
def serving(data: Path | str, *options: str, experts: str = "[e01,e02]") -> Iterator[Served]:
    """Serve the page of `psychocounsel review data=... experts=...` until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder, "output")
        os.mkfifo(pipe)
        process = forked("review", f"data={data}", f"experts={experts}", *options, output=pipe)
        with open(pipe) as output:
            served = Served(process, output)
            try:
                for line in output:
                    served.said.append(line.rstrip("\n"))
                    if found := re.match(r"  (\S+)  (http\S+/)  ", line):
                        served.links[found[1]] = found[2]
                    if line.startswith("Press Ctrl-C to stop"):
                        break
                else:
                    raise AssertionError("\n".join(served.said))
                yield served
            finally:
                process.kill()
                process.wait(60)


def item_of(page: str) -> str:
    """Return the path of the item whose form a page shows, relative to the expert's link."""
    found = re.search(r'action="[./]*(item/\w+/\d)"', page)
    assert found, page
    return found[1]


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
