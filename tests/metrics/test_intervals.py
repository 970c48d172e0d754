"""Intervals of means, ratios and shares, against scipy, brute force, simulations, exact intervals and closed forms."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, norm, t, ttest_1samp

from psychocounsel.metrics import intervals
from psychocounsel.metrics.intervals import (
    bootstrap,
    crossed_interval,
    difference_lower,
    difference_upper,
    first_that_holds,
    lower_bound,
    mean_intervals,
    measure,
    ratio_intervals,
    tails,
    upper_bound,
)

# Intervals of means over clusters, against scipy, explicit matrices, the score equation and simulated coverage.


def test_a_mean_of_independent_rows_has_students_interval() -> None:
    values = np.random.default_rng(0).normal(3, 2, (12, 2))
    expected = [ttest_1samp(column, 0).confidence_interval() for column in values.T]
    found = mean_intervals(values, np.arange(12))
    np.testing.assert_allclose(found, [[each.low, each.high] for each in expected])


def _by_matrices(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Return mean, CR2 standard error and degrees of freedom of Bell and McCaffrey, by matrices of rows and of clusters."""
    rows, names = len(values), np.unique(clusters)
    ones, hat = np.ones((rows, 1)), np.full((rows, rows), 1 / rows)
    errors, meat, weights, leverages = values - hat @ values, 0.0, [], []
    for name in names:
        inside = clusters == name
        block = np.eye(inside.sum()) - hat[np.ix_(inside, inside)]
        eigenvalues, vectors = np.linalg.eigh(block)
        root = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
        meat += (ones[inside].T @ root @ errors[inside]).item() ** 2
        weights.append(inside.sum() / rows)
        leverages.append(1 / (1 - weights[-1]))
    share = np.array(weights)
    centred = np.eye(len(names)) - np.outer(np.ones(len(names)), share)
    form = centred.T @ np.diag(share**2 * np.array(leverages)) @ centred
    return values.mean(), np.sqrt(meat) / rows, np.trace(form) ** 2 / np.trace(form @ form)


def test_clusters_have_robust_errors_and_their_own_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.permutation(np.repeat(np.arange(6), [1, 2, 3, 5, 8, 20]))
    values = rng.random((39, 2)) + 0.1 * clusters[:, None]
    found = mean_intervals(values, clusters)
    for column in (0, 1):
        mean, error, freedom = _by_matrices(values[:, column], clusters)
        assert freedom < 3.5, "the largest cluster holds half of the rows"
        assert found[column] == pytest.approx(t.interval(0.95, freedom, mean, error))
    doubled = mean_intervals(values, clusters, inflation=2)
    np.testing.assert_allclose(np.ptp(doubled, 1), np.sqrt(2) * np.ptp(found, 1))


def test_a_share_has_wilsons_interval_with_the_variance_of_its_clusters() -> None:
    values = np.random.default_rng(1).choice([0, 0.5, 1], (15, 1), p=[0.1, 0.2, 0.7])
    mean, quantile = values.mean(), t.ppf(0.975, 14)
    trials = mean * (1 - mean) / (values.var(ddof=1) / 15)

    def score(share: float) -> float:
        return (mean - share) ** 2 - quantile**2 * share * (1 - share) / trials

    expected = brentq(score, 0, mean), brentq(score, mean, 1)
    assert mean_intervals(values, np.arange(15), shares=True)[0] == pytest.approx(expected)


def test_one_cluster_determines_no_spread() -> None:
    values, clusters = np.array([[0.0, 0.0], [1.0, 1.0]]), np.zeros(2, int)
    share, other = mean_intervals(values, clusters, shares=np.array([True, False])).tolist()
    assert share == pytest.approx([0.0125, 0.9875]) and other == [0.5, 0.5]
    assert np.isnan(mean_intervals(values[:0], clusters[:0])).all()


# (kind of figure, clusters, rows of each cluster: one, or 5 to 20; coverage of percentiles of a bootstrap)
SMALL = [
    ("normal", 10, False, 0.90),
    ("normal", 5, True, 0.83),
    ("share", 5, True, 0.82),
    ("share", 10, True, 0.87),
    ("scores", 5, True, 0.84),
    ("difference", 5, True, 0.86),
    ("difference", 10, True, 0.91),
]


@pytest.mark.parametrize(("kind", "count", "large", "percentiles"), SMALL)
def test_intervals_of_few_clusters_cover_the_truth(kind: str, count: int, large: bool, percentiles: float) -> None:
    """Each column is a data set of its own. All the intervals by percentiles, the method before, cover clearly less."""
    rng = np.random.default_rng(count)
    clusters = np.repeat(np.arange(count), rng.integers(5, 21, count) if large else 1)
    common = rng.normal(size=(count, 3000))[clusters]
    rows = rng.normal(size=(len(clusters), 3000))
    second = rng.normal(size=rows.shape)
    values, truth = {
        "normal": (0.5 * common + rows, 0.0),
        "share": (0.6 * common + 0.8 * rows < norm.ppf(0.8), 0.8),
        "scores": (((common + rows > 0) + 0.5 + 0.5 * np.sign(common + second)) / 2, 0.5),
        "difference": ((common + rows > 0.7) * 1.0 - (common + second > 0.7), 0.0),
    }[kind]
    low, high = mean_intervals(values, clusters, shares=kind in ("share", "scores")).T
    assert max(0.925, percentiles + 0.03) < np.mean((low <= truth) & (truth <= high)) < 0.99


def test_a_bootstrap_of_few_clusters_is_as_wide_as_students_interval() -> None:
    values = norm.ppf((np.arange(10) + 0.5) / 10)
    low, high = bootstrap(lambda rows: values[rows].mean(), range(10), samples=20_000)
    expected = ttest_1samp(values, 0).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=0.06), "plain percentiles are 20 % narrower"
    assert tails(1) == pytest.approx((0.025, 0.975)) and tails(10_000) == pytest.approx((0.025, 0.975), abs=1e-4)
    found = measure(0.0, np.linspace(0, 1, 1001), 10)
    assert (found.low, found.high) == pytest.approx(tails(10), abs=1e-12)


# Means of rows that are crossed by prompts and seeds.


def test_one_level_has_the_interval_of_its_clusters() -> None:
    rng = np.random.default_rng(0)
    values, prompts = rng.random(60), np.repeat(np.arange(12), 5)
    expected = mean_intervals(values[:, None], prompts, shares=True)[0]
    for levels in ([prompts], [prompts, np.zeros(60, int)]):
        assert crossed_interval(values, np.full(60, 1 / 60), levels) == pytest.approx(tuple(expected))


def test_crossed_levels_add_their_variances() -> None:
    """Two-way analysis of variance by hand: rows are prompts, columns seeds, without replicates."""
    noise, level = np.random.default_rng(0).random((8, 3)), np.random.default_rng(9).random((8, 1))
    table = 0.2 * noise + 0.6 * level + np.array([0.0, 0.1, 0.1])
    prompts, seeds = (each.ravel() for each in np.indices(table.shape))
    by_prompt, by_seed = table.mean(1).var(ddof=1) / 8, table.mean(0).var(ddof=1) / 3
    variance = by_prompt + by_seed - table.var(ddof=1) / 24
    assert variance > max(by_prompt, by_seed)
    freedom = variance**2 / (by_prompt**2 / 7 + by_seed**2 / 2)
    found, mean = crossed_interval(table.ravel(), np.full(24, 1 / 24), [prompts, seeds]), table.mean()

    def score(share: float) -> float:
        return (mean - share) ** 2 - t.ppf(0.975, freedom) ** 2 * variance * share * (1 - share) / (mean * (1 - mean))

    assert found == pytest.approx((brentq(score, 0, mean), brentq(score, mean, 1)))
    won = crossed_interval(np.ones(24), np.full(24, 1 / 24), [prompts, seeds])
    assert won == pytest.approx((0.025 ** (1 / 8), 1))


# Resamples


def test_resamples_are_the_same_whether_they_are_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """12 clusters without any spread would give a certain interval."""
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


@pytest.mark.parametrize("constant", [0.25, 0.5, 0.75])
def test_a_share_that_all_clusters_have_is_not_certain(constant: float) -> None:
    """Five prompts have the same mean score; by hand, 0.025^(1/5) = 0.47818 is the share of prompts that surely have it."""
    edge = 0.025**0.2
    expected = pytest.approx((constant * edge, constant * edge + 1 - edge))
    clusters, values = np.repeat(np.arange(5), 2), np.tile([0.5, 2 * constant - 0.5], 5)
    assert mean_intervals(values[:, None], clusters, shares=True)[0] == expected
    table = np.full(15, constant) + np.random.default_rng(0).normal(0, 1e-16, 15)
    prompts, seeds = (side.ravel() for side in np.indices((5, 3)))
    assert crossed_interval(table, np.full(15, 1 / 15), [prompts, seeds]) == expected
    assert bootstrap(lambda rows: constant, clusters, trials=5) == expected


@pytest.mark.parametrize("chances", [(0.02, 0, 0.9, 0, 0.08), (0.05, 0, 0.95, 0, 0), (0.1, 0, 0, 0.9, 0)])
@pytest.mark.parametrize("prompts", [3, 5, 10, 20])
def test_verdicts_that_are_nearly_all_ties_cover_the_truth(prompts: int, chances: tuple[float, ...]) -> None:
    scores = np.array([0, 0.25, 0.5, 0.75, 1])
    drawn = np.random.default_rng(prompts).choice(scores, (prompts, 2000), p=chances)
    low, high = mean_intervals(drawn, np.arange(prompts), shares=True).T
    truth = scores @ np.array(chances)
    assert np.mean((low <= truth) & (truth <= high)) > 0.92


# Intervals of ratios agree with those of the bootstrap over clusters.


def test_ratios_and_their_sum_agree_with_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    sums, counts = rng.normal(2, 1, (60, 2)), np.column_stack([np.ones(60), rng.integers(1, 9, 60)]).astype(float)
    clusters, weights = np.arange(60) // 3, np.array([1.0, 0.3])
    found = ratio_intervals(sums, counts, clusters, weights, np.array([False, False]))

    def ratio(rows: np.ndarray, column: int) -> float:
        return float(sums[rows, column].sum() / counts[rows, column].sum())

    def loss(rows: np.ndarray) -> float:
        return sum(weight * ratio(rows, column) for column, weight in enumerate(weights))

    for row, statistic in zip(found, (lambda r: ratio(r, 0), lambda r: ratio(r, 1), loss), strict=True):
        assert np.allclose(row, bootstrap(statistic, clusters.tolist(), samples=4000, seed=3), atol=0.05)


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
