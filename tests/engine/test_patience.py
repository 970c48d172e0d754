"""Tests of `checkpoint.patience`: a run without improvement ends, gives the reason, and counts as finished."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.engine.loop_state import LoopState
from psychocounsel.rundir.summary import read_summary
from tests.support.harness import cli, metrics_of


def test_evaluations_in_a_row_without_a_better_one_are_counted() -> None:
    state, found = LoopState(), list[tuple[int, str]]()
    checkpoint = OmegaConf.create({"patience": 2, "metric": "eval/loss"})
    for step, loss in enumerate([1.0, 0.9, 0.95, 0.8, 0.8, 0.85]):
        state.step = step
        state.note({"eval/loss": loss}, "eval/loss", "auto")
        found.append((state.unimproved, state.out_of_patience(checkpoint)))
    reason = "checkpoint.patience=2: eval/loss has not improved since step 3"
    assert found == [(0, ""), (0, ""), (1, ""), (0, ""), (1, ""), (2, reason)]
    assert state.out_of_patience(OmegaConf.create({"patience": None, "metric": "eval/loss"})) == ""
    state.note({"eval/loss": 0.1}, "eval/loss", "auto", eligible=False)  # exceeds a limit of guard
    assert state.unimproved == 3


def test_a_run_that_learns_nothing_ends_early_and_is_finished(tmp_path: Path) -> None:
    given = ["algo=sft", "algo.lr=1e-30", "data.limit=20", "global_batch_size=4", "eval.every=1", "eval.limit=4"]
    given += ["max_steps=9", "checkpoint.patience=2", "run_dir=run", "cluster.threads=1"]
    done = cli("train", *given, cwd=tmp_path)
    summary = read_summary(tmp_path / "run")
    assert (summary["status"], summary["steps"], summary["total_steps"]) == ("finished", 3, 9)
    assert summary["out_of_patience"].startswith("checkpoint.patience=2: eval/loss has not improved since step 1")
    assert "ended_early" not in summary, "otherwise a search would count the run as pruned"
    assert summary["out_of_patience"] in done.stderr and len(metrics_of(tmp_path / "run")) == 4
    assert "already finished" in cli("train", *given, cwd=tmp_path).stdout


def test_steps_that_are_repeated_up_to_the_exported_model_cost_no_patience() -> None:
    """The model of step 5 was exported, but the newest checkpoint is of step 3."""
    state = LoopState(step=3, best={"step": 5, "eval/loss": 0.7}, unimproved=1)
    found = list[tuple[bool, int]]()
    for state.step, loss in [(4, 0.8), (5, 0.7), (6, 0.9)]:
        found.append((state.note({"eval/loss": loss}, "eval/loss", "auto"), state.unimproved))
    assert found == [(False, 0), (False, 0), (False, 1)] and state.best["step"] == 5


@pytest.mark.slow
def test_a_run_killed_between_export_and_checkpoint_repeats_steps_without_losing_patience(tmp_path: Path) -> None:
    """Evaluations 4 and 5 are the best so far; the repeated evaluation 4 is worse than the model that 5 left in `model/`."""
    given = ["algo=sft", "algo.lr=1e-3", "algo.warmup=0", "data.limit=20", "global_batch_size=4", "eval.every=1"]
    given += ["eval.limit=4", "max_steps=6", "checkpoint.every=3", "checkpoint.patience=1", "cluster.threads=1"]
    death = "+callbacks.kill={_target_: tests.support.killer.Kill, event: eval_end, step: 5}"
    cli("train", *given, death, "run_dir=run", cwd=tmp_path, check_code=137)
    assert "resuming from step 3" in cli("train", *given, "run_dir=run", cwd=tmp_path).stderr
    cli("train", *given, "run_dir=unbroken", cwd=tmp_path)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "unbroken")
    mine, theirs = (read_summary(tmp_path / name) for name in ("run", "unbroken"))
    assert mine["metrics"] == theirs["metrics"] and mine["steps"] == theirs["steps"] == 6
