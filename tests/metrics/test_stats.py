"""Intervals of means from sums of clusters, against the general bootstrap and exact binomial intervals."""

import numpy as np
import pytest
from scipy.stats import binomtest

from psychocounsel.metrics.stats import bootstrap, mean_intervals


def test_they_agree_with_the_bootstrap_of_rows() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 40, 300)
    values = rng.random((300, 2)) + 0.02 * clusters[:, None]
    found = mean_intervals(values, clusters, samples=4000)
    for column in (0, 1):
        expected = bootstrap(lambda rows, column=column: values[rows, column].mean(), clusters.tolist(), samples=4000)
        assert found[column] == pytest.approx(expected, abs=0.012)
    apart = mean_intervals(values, np.arange(300), samples=4000)
    assert (apart[:, 1] - apart[:, 0] < found[:, 1] - found[:, 0]).all(), "rows of a cluster are alike"


def test_a_share_of_all_or_none_is_not_certain() -> None:
    """Every resample of 12 wins has 12 wins, so the bootstrap alone would give a certain interval."""
    clusters = np.repeat(np.arange(12), 3)
    values = np.stack([np.ones(36), np.zeros(36)], 1)
    expected = [binomtest(count, 12).proportion_ci(method="exact") for count in (12, 0)]
    found = mean_intervals(values, clusters, shares=True)
    np.testing.assert_allclose(found, [[each.low, each.high] for each in expected], atol=1e-9)
    assert mean_intervals(values, clusters).tolist() == [[1, 1], [0, 0]], "differences may be certain"
