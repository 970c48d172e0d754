"""Tests that the benchmark against TRL trains what TRL trains, and of arguments that the benchmarks refuse."""

import os
import subprocess
import sys

import pytest

from benchmarks.gpu_check.full_size import write_sample_pairs
from benchmarks.online import read_arguments
from benchmarks.training_runs import ROOT

_OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of other tests


@pytest.mark.slow
@pytest.mark.parametrize("typed", [["offline", "--cases", "dpo,sft"], ["online", "--rollouts", "hf", "--steps", "2"]])
def test_losses_equal_those_of_trl(typed, tmp_path):
    write_sample_pairs(tmp_path / "pairs.jsonl")
    command = [sys.executable, "-m", f"benchmarks.{typed[0]}", *typed[1:], "--smoke", "--repeats", "1"]
    command += ["--data", str(tmp_path / "pairs.jsonl")]
    environment = {name: value for name, value in os.environ.items() if name not in _OF_RANKS}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr  # 1 if losses differ by more than 1e-4


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "needs --ppo-python"),
        (["--ppo-python", "/nowhere/python"], "/nowhere/python: No such file"),
        (["--ppo-python", sys.executable], "not 0.24"),  # the TRL of the dev requirements has no PPO
    ],
)
def test_ppo_without_its_environment_is_refused(typed, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        read_arguments(["--data", "pairs.jsonl", "--cases", "ppo", *typed])
    said = capsys.readouterr().err
    assert message in said and "benchmarks/README.md" in said


def test_ppo_is_a_case_only_with_its_environment():
    assert read_arguments(["--data", "pairs.jsonl"]).cases == ["online_dpo"]
