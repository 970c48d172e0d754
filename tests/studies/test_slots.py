"""Processes that run a study's jobs side by side: one that is killed fails its own job, and nothing else."""

import os
import signal
import time
from pathlib import Path

from psychocounsel.studies.local_run import Slots


def test_a_killed_slot_fails_its_run_alone_and_is_replaced(tmp_path: Path) -> None:
    def run(place: int) -> int:
        (tmp_path / str(place)).write_text(str(os.getpid()))
        while place < 2 and not (tmp_path / "go_on").exists():
            time.sleep(0.02)
        return place

    def ended() -> list[tuple[int, int]]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if found := [(place, code) for place, code, _ in slots.ended()]:
                return found
        raise AssertionError("nothing ends")

    with Slots(2, 0, run) as slots:
        for place in (0, 1):
            slots.start(place)
        assert not slots.is_free()
        while not all((tmp_path / str(place)).exists() for place in (0, 1)):
            time.sleep(0.02)
        os.kill(int((tmp_path / "0").read_text()), signal.SIGKILL)
        assert ended() == [(0, 128 + signal.SIGKILL)]
        assert slots.busy() and slots.is_free(), "the other goes on"
        slots.start(2)
        assert ended() == [(2, 2)], "by a process in the place of the one that was killed"
        (tmp_path / "go_on").touch()
        assert ended() == [(1, 1)]
        assert not slots.busy()
