"""Intervals of ratios agree with those of a plain bootstrap over clusters."""

import numpy as np

from psychocounsel.metrics.stats import bootstrap, ratio_intervals


def test_ratios_and_their_sum_agree_with_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    sums, counts = rng.normal(2, 1, (60, 2)), np.column_stack([np.ones(60), rng.integers(1, 9, 60)]).astype(float)
    clusters, weights = np.arange(60) // 3, np.array([1.0, 0.3])
    found = ratio_intervals(sums, counts, clusters, weights, np.array([False, False]), samples=4000)

    def ratio(rows: np.ndarray, column: int) -> float:
        return float(sums[rows, column].sum() / counts[rows, column].sum())

    def loss(rows: np.ndarray) -> float:
        return sum(weight * ratio(rows, column) for column, weight in enumerate(weights))

    for row, statistic in zip(found, (lambda r: ratio(r, 0), lambda r: ratio(r, 1), loss), strict=True):
        assert np.allclose(row, bootstrap(statistic, clusters.tolist(), samples=4000, seed=3), atol=0.03)


def test_a_share_of_all_or_none_promises_no_certainty() -> None:
    ones, clusters = np.ones((10, 2)), np.arange(10)
    sums = np.column_stack([np.ones(10), np.zeros(10)])
    found = ratio_intervals(sums, ones, clusters, np.zeros(2), np.array([True, True]))
    assert np.allclose(found[:2], [[0.025**0.1, 1], [0, 1 - 0.025**0.1]])
