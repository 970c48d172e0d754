"""Intervals of means, ratios and shares, against the general bootstrap, exact intervals, brute force and closed forms."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, norm

from psychocounsel.metrics import intervals
from psychocounsel.metrics.intervals import (
    bootstrap,
    difference_lower,
    difference_upper,
    first_that_holds,
    lower_bound,
    mean_intervals,
    ratio_intervals,
    upper_bound,
)

# Intervals of means from sums of clusters, against the general bootstrap and exact binomial intervals.


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


def test_resamples_are_the_same_whether_they_are_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = np.random.default_rng(2).random((90, 2)), np.repeat(np.arange(30), 3)
    found = [mean_intervals(values, clusters, samples=250).tolist() for _ in range(2)]
    monkeypatch.setattr(intervals, "_MOST_KEPT", 0)
    assert found == [mean_intervals(values, clusters, samples=250).tolist()] * 2
    plain = np.random.default_rng(4).multinomial(30, np.full(30, 1 / 30), 250)
    for most in (0, 10_000):
        monkeypatch.setattr(intervals, "_MOST_KEPT", most)
        blocks = list(intervals.draws(30, 250, 4))
        assert [len(block) for block in blocks] == [100, 100, 50] and np.array_equal(np.concatenate(blocks), plain)


def test_a_bootstrap_draws_whole_clusters() -> None:
    rows: list[list[int]] = []
    bootstrap(lambda drawn: float(rows.append(drawn.tolist()) or 0), ["b", "a", "b", "c", "c", "c"], samples=50, seed=7)  # type: ignore[func-returns-value]
    members = ([0, 2], [1], [3, 4, 5])
    draws = np.random.default_rng(7).integers(0, 3, (50, 3))
    assert rows == [[row for cluster in draw for row in members[cluster]] for draw in draws]


def test_a_share_of_all_or_none_is_not_certain() -> None:
    """Every resample of 12 wins has 12 wins, so the bootstrap alone would give a certain interval."""
    clusters = np.repeat(np.arange(12), 3)
    values = np.stack([np.ones(36), np.zeros(36)], 1)
    expected = [binomtest(count, 12).proportion_ci(method="exact") for count in (12, 0)]
    found = mean_intervals(values, clusters, shares=True)
    np.testing.assert_allclose(found, [[each.low, each.high] for each in expected], atol=1e-9)
    assert mean_intervals(values, clusters).tolist() == [[1, 1], [0, 0]], "differences may be certain"


def test_the_edge_of_four_clusters_is_worked_out_by_hand() -> None:
    """0.025^(1/4) = 0.39764: four wins of four do not exclude a share of 40 %."""
    clusters = [0, 0, 1, 2, 3, 3]
    won, lost = bootstrap(lambda rows: 1.0, clusters, trials=4), bootstrap(lambda rows: 0.0, clusters, trials=4)
    assert won == pytest.approx((0.39764, 1), abs=1e-5) and lost == pytest.approx((0, 0.60236), abs=1e-5)
    assert bootstrap(lambda rows: 1.0, clusters) == (1, 1), "a figure that is no share"
    mixed = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    given = bootstrap(lambda rows: mixed[rows].mean(), clusters, trials=4)
    assert given == bootstrap(lambda rows: mixed[rows].mean(), clusters), "resamples that differ have their own spread"


# Intervals of ratios agree with those of a plain bootstrap over clusters.


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


# Bounds of shares against brute force: likelihood maximised on a grid, exact coverage over all sums, closed forms.


@pytest.mark.parametrize(("failures", "cases"), [(0, 20), (3, 20), (19, 20), (20, 20)])
def test_bounds_of_whole_counts_are_those_of_scipy(failures: int, cases: int) -> None:
    interval = binomtest(failures, cases).proportion_ci(0.90, "exact")  # two sides of 5 % each
    assert upper_bound(failures, cases) == pytest.approx(interval.high)
    assert lower_bound(failures, cases) == pytest.approx(interval.low)
    if failures < cases:
        assert binom.cdf(failures, cases, upper_bound(failures, cases)) == pytest.approx(0.05)


def test_bounds_without_a_case_and_between_whole_counts() -> None:
    assert (upper_bound(0, 0), lower_bound(0, 0)) == (1, 0)
    assert (difference_upper(0, 0, 0), difference_lower(0, 0, 0)) == (1, -1)
    assert upper_bound(2, 50) < upper_bound(2.5, 50) < upper_bound(3, 50)
    assert lower_bound(0.5, 50) > 0 == lower_bound(0, 50)


def _by_likelihood(worse: float, better: float, items: int, level: float) -> float:
    """Return the upper bound by a numerical search of the constrained maximum of the likelihood."""

    def score(difference: float) -> float:
        def loss(share: float) -> float:
            rest = max(1 - 2 * share - difference, 1e-300)
            told = worse * np.log(share + difference) + better * np.log(max(share, 1e-300))
            return -float(told + (items - worse - better) * np.log(rest))

        least = max(0.0, -difference) + 1e-12
        found = minimize_scalar(
            loss, bounds=(least, (1 - difference) / 2 - 1e-12), method="bounded", options={"xatol": 1e-12}
        )
        variance = items * (2 * found.x + difference * (1 - difference))
        return float((worse - better - items * difference) / np.sqrt(variance))

    quantile = norm.ppf(level)
    return float(brentq(lambda each: score(each) + quantile, (worse - better) / items + 1e-6, 1 - 1e-6))


@pytest.mark.parametrize(
    ("worse", "better", "items"), [(1, 3, 44), (12, 1, 60), (5, 12, 100), (2.5, 0.75, 40), (4, 4, 30), (7, 0, 25)]
)
def test_the_bound_of_a_difference_is_where_the_score_reaches_the_quantile(
    worse: float, better: float, items: int
) -> None:
    for level in (0.95, 0.975):
        exact = upper_bound(worse - better, items, level) if worse >= better else -1.0
        assert difference_upper(worse, better, items, level) == pytest.approx(
            max(_by_likelihood(worse, better, items, level), exact), abs=2e-4
        )
    assert difference_lower(worse, better, items) == -difference_upper(better, worse, items)


@pytest.mark.parametrize(("items", "level"), [(10, 0.95), (301, 0.95), (301, 0.975)])
def test_without_a_difference_the_bound_is_not_zero(items: int, level: float) -> None:
    """The bound is the larger of the score bound and the exact one: the second at 95 %, the first at 301 pairs and 97.5 %."""
    squared = norm.ppf(level) ** 2
    wanted = max(squared / (items + squared), 1 - (1 - level) ** (1 / items))
    assert difference_upper(0, 0, items, level) == pytest.approx(wanted)
    assert difference_lower(0, 0, items, level) == pytest.approx(-wanted)


@pytest.mark.parametrize("items", [40, 52])
def test_the_bound_of_a_difference_keeps_its_level(items: int) -> None:
    """Covers all tables of this size; the score bound alone misses by up to 2 points if neither side is better (Tango 1998)."""
    missed = []
    tables = [(w, b) for w in range(items + 1) for b in range(items + 1 - w)]
    bounds = {table: difference_upper(*table, items) for table in tables if sum(table) <= 30}
    for first, second in [(0.1, 0.1), (0.05, 0.2), (0.2, 0.05), (0.02, 0.02), (0.15, 0.0), (0.05, 0.0), (0.02, 0.0)]:
        weight = 0.0
        for (worse, better), bound in bounds.items():
            if bound < first - second:
                weight += binom.pmf(worse, items, first) * binom.pmf(better, items - worse, second / (1 - first))
        missed.append((second > first, weight))
    assert (
        max(weight for below, weight in missed if not below) < 0.053
    )  # a margin above 0 only needs differences of 0 or more
    assert max(weight for _, weight in missed) < 0.06


@pytest.mark.parametrize("values", [(0, 0.5, 1), (0, 0.25, 0.5), (0, 0.5), (0, 1), (0.25, 0.5, 1), (0, 0.75, 1)])
@pytest.mark.parametrize("cases", [10, 40])
def test_the_bound_of_a_rate_keeps_its_level_for_means_of_clusters(values: tuple[float, ...], cases: int) -> None:
    """Coverage is exact: the distribution of the sum is the n-fold convolution of a cluster's, on steps of 0.25."""
    rng, steps = np.random.default_rng(0), 4
    bounds = np.array([upper_bound(total / steps, cases) for total in range(steps * cases + 1)])
    grid = [rng.dirichlet(np.full(len(values), scale)) for scale in (0.1, 0.5, 2) for _ in range(12)]
    grid += [
        np.array([1 - small, *[small / (len(values) - 1)] * (len(values) - 1)]) for small in (0.01, 0.05, 0.1, 0.3)
    ]
    for shares in grid:
        one = np.zeros(steps + 1)
        for value, share in zip(values, shares, strict=True):
            one[int(value * steps)] += share
        total = np.ones(1)
        for _ in range(cases):
            total = np.convolve(total, one)
        rate = float(np.dot(values, shares))
        assert total[bounds < rate - 1e-12].sum() <= 0.05 + 1e-9


def test_the_first_number_that_holds() -> None:
    assert first_that_holds(lambda number: upper_bound(0, number) <= 0.01, 0, 100_000) == 299
    assert first_that_holds(lambda number: number >= 0, 0, 10) == 0
    assert first_that_holds(lambda number: False, 0, 10) is None
