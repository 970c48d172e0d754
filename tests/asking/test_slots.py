"""A server with 64 slots is kept busy. It runs in its own process and takes a second for every answer."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.answering import no_proxy
from tests.support.asking import asked, chat, question
from tests.support.harness import ROOT

__all__ = ["no_proxy"]

SLOTS, ROUNDS = 64, 30


@pytest.mark.proof
def test_95_percent_of_slot_seconds_are_used(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.scripted", "1.0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        model = chat(server.stdout.readline().strip(), concurrency=SLOTS)
        asked(model, [question(-1)], tmp_path)  # the first call also imports modules
        started = time.monotonic()
        found = asked(model, [question(number) for number in range(SLOTS * ROUNDS)], tmp_path)
        seconds = time.monotonic() - started - 1.0  # the check takes one second
    finally:
        server.kill()
    assert len(found) == SLOTS * ROUNDS
    share = SLOTS * ROUNDS / (SLOTS * seconds)
    print(f"{share:.1%} of slot seconds")
    assert share >= 0.95
