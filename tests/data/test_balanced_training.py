"""Runs with `data.balance`: they report it, weigh pairs unequally, and give the same result however the work is split."""

from pathlib import Path

import pytest

from tests.engine.test_equality import assert_same_training, train
from tests.support.harness import metrics_of

pytestmark = pytest.mark.slow


def test_a_balanced_run_is_the_same_in_two_processes_with_small_micro_batches(
    small_model: Path, tmp_path: Path
) -> None:
    balanced = ["algo=simpo", "data.balance=[length,commas]"]
    one = train(tmp_path / "one", small_model, *balanced)
    two = train(tmp_path / "two", small_model, *balanced, "cluster.processes=2", "micro_batch_tokens=512")
    assert_same_training(two, one)
    plain = train(tmp_path / "plain", small_model, "algo=simpo")
    assert metrics_of(plain)[-1]["eval/loss"] != metrics_of(one)[-1]["eval/loss"]
    assert metrics_of(plain)[0] == metrics_of(one)[0], "held-out pairs count equally"
    log = (one / "logs" / "01" / "rank-0.log").read_text()
    assert "data.balance: 48 pairs have weights from " in log and "length " in log and "-> 50.0%" in log
