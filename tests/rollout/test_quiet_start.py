"""The output of a starting engine is in the attempt's log, even if native code aborts the process."""

import subprocess
import sys
from pathlib import Path

from tests.support.harness import ROOT

START = """
import os, sys
from pathlib import Path
from omegaconf import OmegaConf
from psychocounsel.rollout.vllm_engine import quiet_start
from psychocounsel.rundir.run import Run

with Run.open(Path(sys.argv[1]), OmegaConf.create()):
    with quiet_start("rollout=vllm"):
        os.write(1, b"native code says this")
        if sys.argv[2] == "abort":
            os.abort()
        raise RuntimeError("a reason")
"""


def started(run: Path, end: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", START, run, end], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_what_is_printed_before_an_abort_stays(tmp_path: Path) -> None:
    ended = started(tmp_path / "run", "abort")
    assert ended.returncode < 0 and "native" not in ended.stdout + ended.stderr
    assert (tmp_path / "run/logs/01/rank-0-engine.log").read_text() == "native code says this"


def test_a_failure_shows_what_was_printed_and_one_line(tmp_path: Path) -> None:
    ended = started(tmp_path / "run", "raise")
    assert "native code says this" in ended.stderr
    assert "UserError: rollout=vllm: the engine could not start: a reason" in ended.stderr
