"""Metrics of rewards against scikit-learn and a loop over the bins; the bootstrap over prompts against theory."""

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from psychocounsel.evaluation.reward_metrics import accuracy, auc, brier, ece, pair_metrics, reward_statistics
from psychocounsel.evaluation.stats import bootstrap

METRICS = [accuracy, auc, ece, brier]
RNG = np.random.default_rng(0)
MARGINS = {
    "no ties": RNG.normal(0.5, 2, 300),
    "many ties": RNG.integers(-4, 7, 300) / 2,
    "mostly zero": RNG.integers(0, 10, 200).clip(8) - 8.0,
    "float32 rewards": (RNG.normal(0.3, 1, 300).astype(np.float32) - np.float32(0.1)).astype(np.float64),
    "all zero": np.zeros(9),
    "all equal": np.full(9, 0.7),
    "all equal and wrong": np.full(9, -2.5),
    "huge": RNG.choice([-1000.0, -999.0, 0.0, 998.0, 1000.0], 200),
    "huge and small": np.concatenate([RNG.normal(0, 1, 50), RNG.choice([-1000.0, 1000.0], 50)]),
    "infinite": np.array([math.inf, -math.inf, math.inf, 1.0]),
    "barely not zero": np.array([1e-17, -1e-17, 1e-300, 0.0, -5e-324]),
    "one right": np.array([0.4]),
    "one wrong": np.array([-1000.0]),
    "one tie": np.array([0.0]),
}
every_case = pytest.mark.parametrize("margins", MARGINS.values(), ids=MARGINS)


def both_orders(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Margins and labels of (chosen, rejected) and then of (rejected, chosen)."""
    return np.concatenate([margins, -margins]), np.repeat([1, 0], len(margins))


def ece_by_loop(margins: np.ndarray, bins: int = 10) -> float:
    """Share of each bin times the difference of its mean label and mean prediction."""
    predictions = [(p, label) for m in margins for p, label in ((expit(m), 1), (expit(-m), 0))]
    total = 0.0
    for k in range(bins):
        inside = [(p, y) for p, y in predictions if k / bins <= p < (k + 1) / bins or (p == 1 and k == bins - 1)]
        if inside:
            confidence, right = (math.fsum(column) / len(inside) for column in zip(*inside, strict=True))
            total += len(inside) / len(predictions) * abs(right - confidence)
    return total


@every_case
def test_metrics_are_those_of_scikit_learn(margins: np.ndarray) -> None:
    scores, labels = both_orders(margins)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        got = {metric.__name__: metric(margins) for metric in METRICS}
    ranks = np.unique(scores, return_inverse=True)[1]  # scikit-learn takes no infinite scores
    assert got["accuracy"] == pytest.approx(accuracy_score(labels, scores > 0), abs=1e-14)
    assert got["auc"] == pytest.approx(roc_auc_score(labels, ranks), abs=1e-14)
    assert got["brier"] == pytest.approx(brier_score_loss(labels, expit(scores)), abs=1e-14)


@every_case
def test_ece_is_that_of_a_loop_and_of_scikit_learns_curve(margins: np.ndarray) -> None:
    scores, labels = both_orders(margins)
    p = expit(scores)
    right, confidence = calibration_curve(labels, p, n_bins=10, strategy="uniform")
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 11)[1:-1], p))
    by_curve = (counts[counts > 0] * np.abs(right - confidence)).sum() / len(p)
    assert ece(margins) == pytest.approx(ece_by_loop(margins), abs=1e-14)
    assert ece(margins) == pytest.approx(by_curve, abs=1e-14)


@pytest.mark.parametrize("name", ["no ties", "many ties", "mostly zero", "all equal", "one wrong"])
def test_auc_of_margins_is_that_of_predictions(name: str) -> None:
    scores, labels = both_orders(MARGINS[name])
    assert auc(MARGINS[name]) == pytest.approx(roc_auc_score(labels, expit(scores)), abs=1e-14)


def test_auc_tells_margins_apart_whose_predictions_are_both_one() -> None:
    margins = np.array([1000.0, -900.0])
    scores, labels = both_orders(margins)
    assert roc_auc_score(labels, expit(scores)) == auc(margins) == 0.5
    margins = np.array([1000.0, 900.0, -950.0])  # positives 1000, 900, -950; negatives -1000, -900, 950
    assert auc(margins) == pytest.approx(6 / 9)
    assert roc_auc_score(both_orders(margins)[1], expit(both_orders(margins)[0])) == pytest.approx(12 / 18)
    margins = np.array([1000.0, 990.0, -950.0])  # both above 950, and so on; with predictions these would tie
    assert auc(margins) == pytest.approx(7 / 9)
