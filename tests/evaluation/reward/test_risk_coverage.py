"""Risk-coverage curves against brute force over orders, and closed forms."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from psychocounsel.evaluation.reward.risk_coverage import (
    accuracy_at,
    aurc,
    coverage_figures,
    risk_coverage_curve,
    risks,
)
from psychocounsel.metrics.reward_metrics import accuracy


@pytest.mark.parametrize("seed", range(4))
def test_risks_are_the_mean_over_all_orders_of_equal_margins(seed: int) -> None:
    margins = np.random.default_rng(seed).integers(-2, 3, 6) / 2.0
    found = []
    for order in permutations(margins.tolist()):
        if all(abs(first) >= abs(second) for first, second in pairwise(order)):
            wrong = [0.5 if margin == 0 else float(margin < 0) for margin in order]
            found.append([sum(wrong[:k]) / k for k in range(1, 7)])
    assert risks(margins).tolist() == pytest.approx(np.mean(found, axis=0).tolist())


def test_figures_by_hand() -> None:
    margins = np.array([3.0, -0.5, 2.0, 1.0, -1.5])  # by size: right, right, wrong, right, wrong
    assert risks(margins).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert aurc(margins) == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert [accuracy_at(margins, share) for share in (0.2, 0.5, 0.8, 1)] == pytest.approx([1, 2 / 3, 3 / 4, 3 / 5])
    assert risk_coverage_curve(margins)[2] == {"coverage": 0.6, "accuracy": pytest.approx(2 / 3), "margin": 1.5}


def test_whole_coverage_is_plain_accuracy_and_the_scale_does_not_matter() -> None:
    margins = np.random.default_rng(5).normal(0.3, 1, 301)
    assert accuracy_at(margins, 1) == pytest.approx(accuracy(margins))
    curve = risk_coverage_curve(margins)
    assert len(curve) == 100 and curve[-1]["accuracy"] == pytest.approx(accuracy(margins))
    assert aurc(7 * margins) == aurc(margins)
    assert accuracy_at(np.ones(35), 0.8) == 1 and len(risk_coverage_curve(np.ones(3))) == 3


def test_a_scorer_that_knows_when_it_is_sure_has_a_lower_area_than_one_that_does_not() -> None:
    rng = np.random.default_rng(6)
    size = np.abs(rng.normal(0, 2, 5000))
    sure = np.where(rng.random(5000) < 1 / (1 + np.exp(-size)), size, -size)
    unsure = np.sign(sure) * rng.permutation(size)
    assert aurc(unsure) == pytest.approx(1 - accuracy(unsure), abs=0.02), "the curve is flat"
    assert aurc(sure) < 0.6 * aurc(unsure)


def test_intervals_are_by_cluster() -> None:
    margins = np.random.default_rng(7).normal(0.5, 1, 60)
    figures = coverage_figures(margins, np.arange(60).tolist(), samples=200)
    assert set(figures) == {
        f"{name}{end}"
        for name in ("aurc", "accuracy_at_50", "accuracy_at_80", "accuracy_at_90")
        for end in ("", "_low", "_high")
    }
    assert figures["accuracy_at_80_low"] < figures["accuracy_at_80"] < figures["accuracy_at_80_high"]
    same = coverage_figures(np.repeat(margins, 3), np.repeat(np.arange(60), 3).tolist(), samples=200)
    assert same["accuracy_at_50_low"] == pytest.approx(figures["accuracy_at_50_low"], abs=1e-9)
