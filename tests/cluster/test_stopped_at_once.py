"""Ctrl-C twice while a checkpoint is written: the run and its sweep end, and the terminal shows how to resume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psychocounsel.rundir.results import read_metrics, read_state
from tests.support.harness import ROOT, cli

_HANGS = "+callbacks.hang={_target_: tests.support.killer.Hang, step: 4, event: checkpoint_written}"


@pytest.mark.slow
def test_ctrl_c_twice_while_saving_ends_the_sweep_and_the_same_command_resumes(
    small_model: Path, tmp_path: Path
) -> None:
    given = ["-m", "seed=1,2", f"model.path={small_model}", "debug=fast", "max_steps=6", "eval.every=0"]
    given += ["checkpoint.every=2", "sweep_dir=sweep", "cluster.threads=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "psychocounsel.train", *given, _HANGS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    first, second = tmp_path / "sweep" / "seed-1", tmp_path / "sweep" / "seed-2"
    try:
        end = time.monotonic() + 120
        while not (first / "checkpoints" / ".step-000004.tmp").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, said
    assert f"stopped without saving; to resume from step 2: the same command with run_dir={first}" in said
    assert "failed" not in said and not (second / "logs").exists()
    cli("train", *given, cwd=tmp_path)
    assert [read_state(run)["step"] for run in (first, second)] == [6, 6]
    steps = [
        line["step"] for line in read_metrics(first / "metrics.jsonl") if line.get("attempt") == 2 and "loss" in line
    ]
    assert steps == [3, 4, 5, 6]
