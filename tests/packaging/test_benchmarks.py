"""Tests of arguments that the benchmarks refuse. `--smoke` shows that the benchmarks themselves work."""

import sys

import pytest

from benchmarks.online import read_arguments


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
