"""Halo figures equal their written-out definitions and scipy's correlations."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from psychocounsel.evaluation.audit.halo import cronbach, halo

NAMES = ["empathy", "relevance", "clarity"]


def ratings(halo_share: float, count: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(count, 1)), rng.normal(size=(count, 3))
    return np.clip(np.rint(3 + 1.2 * (halo_share * common + (1 - halo_share) * own)), 1, 5)


def alpha_by_covariances(table: np.ndarray) -> float:
    """Return k x mean covariance / (mean variance + (k - 1) x mean covariance)."""
    covariance = np.cov(table.T)
    count = len(covariance)
    between = (covariance.sum() - np.trace(covariance)) / (count * (count - 1))
    return float(count * between / (np.trace(covariance) / count + (count - 1) * between))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_alpha_components_and_correlations(share: float) -> None:
    table = ratings(share)
    found = halo(table, NAMES, top=5)
    assert found["alpha"] == pytest.approx(alpha_by_covariances(table))
    standard = (table - table.mean(0)) / table.std(0)
    singular = np.linalg.svd(standard, compute_uv=False) ** 2
    assert found["first_component"] == pytest.approx(singular[0] / singular.sum())
    expected = [[pearsonr(table[:, a], table[:, b]).statistic for b in range(3)] for a in range(3)]
    np.testing.assert_allclose(np.array(found["correlations"], float), expected, atol=1e-9)
    assert found["mean_correlation"] == pytest.approx(np.mean([expected[0][1], expected[0][2], expected[1][2]]))
    clarity = found["principles"]["clarity"]
    assert clarity["at_top"] == (table[:, 2] == 5).mean() and clarity["mean"] == pytest.approx(table[:, 2].mean())
    assert clarity["with_others"] == pytest.approx(pearsonr(table[:, 2], table[:, 0] + table[:, 1]).statistic)


def test_alpha_is_one_of_equal_columns_and_near_zero_of_unrelated_ones() -> None:
    column = np.array([1.0, 2, 2, 5, 3])
    assert cronbach(np.stack([column] * 4, 1)) == pytest.approx(1)
    assert abs(cronbach(ratings(0.0, 4000)) or 1) < 0.06


def test_a_principle_that_always_gets_the_same_rating_has_no_correlation() -> None:
    table = ratings(0.5)
    table[:, 1] = 5
    found = halo(table, NAMES, top=5)
    assert found["correlations"][1] == [None] * 3 and found["correlations"][0][2] == pytest.approx(
        pearsonr(table[:, 0], table[:, 2]).statistic
    )
    assert found["principles"]["relevance"] == {"mean": 5, "deviation": 0, "at_top": 1, "with_others": None}
    single = halo(table[:1], NAMES, top=5)
    assert (single["alpha"], single["first_component"], single["mean_correlation"]) == (None, None, None)
