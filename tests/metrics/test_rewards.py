"""Metrics of rewards against scikit-learn and a loop over bins; the bootstrap over prompts against theory."""

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

from psychocounsel.metrics.intervals import bootstrap, tails
from psychocounsel.metrics.rewards import (
    accuracy,
    auc,
    brier,
    calibration_interval,
    ece,
    pair_metrics,
    reward_statistics,
    width_bins,
    win_rate,
)

# Metrics of rewards against scikit-learn and a loop over bins; the bootstrap over prompts against theory.

METRICS = [accuracy, auc, ece, brier]
RNG = np.random.default_rng(0)
MARGINS = {
    "no ties": RNG.normal(0.5, 2, 300),
    "many ties": RNG.integers(-4, 7, 300) / 2,
    "mostly zero": RNG.integers(0, 10, 200).clip(8) - 8.0,
    "all zero": np.zeros(9),
    "all equal": np.full(9, 0.7),
    "huge": RNG.choice([-1000.0, -999.0, 0.0, 998.0, 1000.0], 200),
    "huge and small": np.concatenate([RNG.normal(0, 1, 50), RNG.choice([-1000.0, 1000.0], 50)]),
    "infinite": np.array([math.inf, -math.inf, math.inf, 1.0]),
    "barely not zero": np.array([1e-17, -1e-17, 1e-300, 0.0, -5e-324]),
    "one right": np.array([0.4]),
    "one wrong": np.array([-1000.0]),
}
every_case = pytest.mark.parametrize("margins", MARGINS.values(), ids=MARGINS)


def both_orders(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return margins and labels of (chosen, rejected), then of (rejected, chosen)."""
    return np.concatenate([margins, -margins]), np.repeat([1, 0], len(margins))


def ece_by_loop(margins: np.ndarray) -> float:
    """Return the sum over bins of each bin's share times the gap between its mean label and mean prediction."""
    predictions = [(p, label) for m in margins for p, label in ((expit(m), 1), (expit(-m), 0))]
    total = 0.0
    for k in range(10):
        inside = [(p, y) for p, y in predictions if k / 10 <= p < (k + 1) / 10 or (p == 1 and k == 9)]
        if inside:
            gap = math.fsum(y - p for p, y in inside) / len(inside)
            total += abs(gap) * len(inside) / len(predictions)
    return total


@every_case
def test_metrics_are_those_of_scikit_learn(margins: np.ndarray) -> None:
    scores, labels = both_orders(margins)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        got = {metric.__name__: metric(margins) for metric in METRICS}
    ranks = np.unique(scores, return_inverse=True)[1]  # scikit-learn rejects infinite scores
    if len(np.unique(expit(scores))) == ranks.max() + 1:  # different margins have different predictions
        assert got["auc"] == pytest.approx(roc_auc_score(labels, expit(scores)), abs=1e-14)
    assert got["accuracy"] == pytest.approx(accuracy_score(labels, scores > 0), abs=1e-14)
    assert got["auc"] == pytest.approx(roc_auc_score(labels, ranks), abs=1e-14)
    assert got["brier"] == pytest.approx(brier_score_loss(labels, expit(scores)), abs=1e-14)


@every_case
def test_ece_is_that_of_a_loop_and_of_scikit_learns_curve(margins: np.ndarray) -> None:
    p, labels = expit(both_orders(margins)[0]), both_orders(margins)[1]
    right, confidence = calibration_curve(labels, p, n_bins=10, strategy="uniform")
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 11)[1:-1], p))
    by_curve = (counts[counts > 0] * np.abs(right - confidence)).sum() / len(p)
    assert [ece_by_loop(margins), by_curve] == pytest.approx([ece(margins)] * 2, abs=1e-14)


def test_auc_tells_margins_apart_whose_predictions_round_to_one() -> None:
    scores, labels = both_orders(margins := np.array([1000.0, -900.0]))  # 1000 and -900 against -1000 and 900
    assert auc(margins) == 3 / 4
    assert roc_auc_score(labels, expit(scores)) == 2 / 4


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ([0.0], (0.5, 0.5, 0.0, 0.25)),
        ([1000.0], (1.0, 1.0, 0.0, 0.0)),
        ([-1000.0], (0.0, 0.0, 1.0, 1.0)),
        ([1000.0, 0.0], (0.75, 7 / 8, 0.0, 0.125)),
        ([math.log(4), -math.log(4)], (0.5, 0.5, 0.3, 0.34)),  # 0.8 and 0.2 lie on bin edges
    ],
)
def test_metrics_worked_out_by_hand(margins: list[float], expected: tuple[float, ...]) -> None:
    assert [metric(np.array(margins)) for metric in METRICS] == pytest.approx(expected, abs=1e-15)


def test_auc_and_accuracy_see_the_order_of_margins_only() -> None:
    margins = MARGINS["many ties"]
    for monotone in (lambda m: 5 * m, lambda m: m / 1024, lambda m: m**3):
        assert auc(monotone(margins)) == auc(margins)
        assert accuracy(monotone(margins)) == accuracy(margins)
        assert abs(ece(monotone(margins)) - ece(margins)) > 0.01


def test_ece_is_small_where_the_margins_are_true_and_large_where_they_boast() -> None:
    rng = np.random.default_rng(1)
    size = np.abs(rng.normal(0, 2, 50_000))
    margins = np.where(rng.random(50_000) < expit(size), size, -size)
    assert ece(margins) < 0.01 < 0.1 < ece(4 * margins)
    assert brier(margins) < min(brier(4 * margins), brier(margins / 4))


@every_case
def test_the_order_of_pairs_does_not_matter_and_exchanged_replies_mirror(margins: np.ndarray) -> None:
    shuffled = np.random.default_rng(2).permutation(margins)
    assert [metric(shuffled) for metric in METRICS] == pytest.approx([metric(margins) for metric in METRICS], abs=1e-14)
    assert [accuracy(-margins), auc(-margins)] == pytest.approx([1 - accuracy(margins), 1 - auc(margins)], abs=1e-14)


def test_pair_metrics_are_of_the_differences_with_an_interval_each() -> None:
    rng = np.random.default_rng(3)
    chosen, rejected, prompts = rng.normal(1, 1, 120), rng.normal(0, 1, 120), [index % 40 for index in range(120)]
    results = pair_metrics(list(chosen), list(rejected), prompts, samples=200)
    assert set(results) == {f"{metric.__name__}{end}" for metric in METRICS for end in ("", "_low", "_high")}
    for metric in METRICS:
        name = metric.__name__
        assert results[name] == metric(chosen - rejected)
        low, high = bootstrap(lambda rows, metric=metric: metric((chosen - rejected)[rows]), prompts, 2000)
        assert (results[f"{name}_low"], results[f"{name}_high"]) == pytest.approx(
            (low, high), abs=0.03
        ) or metric is ece
        assert results[f"{name}_low"] < results[name] < results[f"{name}_high"]
    single = pair_metrics([2.0], [1.0], ["a"], samples=20)
    assert (single["auc_low"], single["auc"], single["auc_high"]) == pytest.approx((0.025, 1, 1)), "one pair of one"
    with pytest.raises(ValueError, match="NaN for 1 of 2 pairs"):
        pair_metrics([1.0, math.nan], [0.0, 0.0], ["a", "b"])


def test_reward_statistics_are_over_all_replies() -> None:
    got = reward_statistics([np.array(each, np.float32) for each in ([1.5, -2.0], [0.25], [4.0, 4.0])])
    flat = [1.5, -2.0, 0.25, 4.0, 4.0]
    assert got == pytest.approx({"reward_mean": statistics.fmean(flat), "reward_std": statistics.stdev(flat)})


def mean_of(values: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda rows: float(values[rows].mean())


def test_bootstrap_draws_whole_clusters_as_many_as_there_are() -> None:
    clusters = [random.Random(row).choice(["a", b"b", 3, ("d", 4)]) for row in range(30)] + ["alone"]
    members = {name: {row for row in range(31) if clusters[row] == name} for name in clusters}
    drawn: Counter[int] = Counter()

    def check(rows: np.ndarray) -> float:
        times = Counter(rows.tolist())
        assert all(len({times[row] for row in inside}) == 1 for inside in members.values()), "rows equally often"
        per_cluster = [times[min(inside)] for inside in members.values()]
        assert sum(per_cluster) == len(members) == 5
        drawn.update(per_cluster)
        return 0.0

    bootstrap(check, clusters, samples=2000)
    for times in range(4):  # a cluster is drawn Binomial(5, 1/5) times
        assert drawn[times] / drawn.total() == pytest.approx(math.comb(5, times) * 4 ** (5 - times) / 5**5, abs=0.02)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_interval_of_a_mean_is_that_of_normal_theory(level: float) -> None:
    values = np.random.default_rng(5).normal(3, 2, 400)
    error = values.std(ddof=1) / math.sqrt(len(values))
    theory = statistics.NormalDist(values.mean(), error).inv_cdf
    interval = bootstrap(mean_of(values), range(400), samples=4000, level=level)
    # The quantile of 4,000 samples has a standard deviation of 0.04 errors.
    assert interval == pytest.approx((theory((1 - level) / 2), theory((1 + level) / 2)), abs=0.15 * error)


def test_equal_rows_of_a_cluster_count_as_one() -> None:
    values = np.repeat(np.random.default_rng(6).normal(0, 1, 100), 4)
    low, high = bootstrap(mean_of(values), [row // 4 for row in range(400)])
    naive_low, naive_high = bootstrap(mean_of(values), range(400))
    assert (high - low) / (naive_high - naive_low) == pytest.approx(2, rel=0.15), (
        "the square root of four rows per cluster"
    )
    assert (low, high) == pytest.approx(bootstrap(mean_of(values[::4]), range(100)), abs=1e-12)


def test_bootstrap_depends_on_the_seed_alone() -> None:
    mean = mean_of(np.random.default_rng(7).normal(0, 1, 50))
    first, same, other = (bootstrap(mean, range(50), 100, seed=seed) for seed in (1, 1, 2))
    assert first == same != other
    assert first == bootstrap(mean, [f"prompt {row}" for row in range(50)], 100, seed=1), "names do not matter"


def test_no_clusters_give_nan_and_a_statistic_of_nan_is_left_out() -> None:
    assert all(map(math.isnan, bootstrap(lambda rows: 1.0, [])))
    seen: list[float] = []

    def mean_if_first(rows: np.ndarray) -> float:
        seen.append(float(rows.mean()) if 0 in rows else math.nan)
        return seen[-1]

    interval = bootstrap(mean_if_first, range(20), samples=500)
    known = [value for value in seen if not math.isnan(value)]
    assert 0 < len(known) < len(seen) == 500 and interval == pytest.approx(tuple(np.quantile(known, tails(20))))


def test_an_accuracy_of_one_hundred_per_cent_is_not_certain() -> None:
    """Four prompts: 0.025^(1/4) = 0.39764."""
    found = pair_metrics([1.0, 2.0, 3.0, 4.0], [0.0] * 4, [0, 1, 2, 3])
    assert (found["accuracy"], found["accuracy_high"], found["auc_high"]) == (1, 1, 1)
    assert [found["accuracy_low"], found["auc_low"]] == pytest.approx([0.39764] * 2, abs=1e-5)


@pytest.mark.parametrize("size", [1, 12])
def test_the_interval_of_a_calibration_error_reaches_0_for_a_calibrated_model(size: int) -> None:
    """The error of 30 pairs is about 0.13 by chance; no percentile of a bootstrap is as low as the truth."""
    held, found = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        odds = np.repeat(rng.normal(0, 1, 30), size)
        margins = np.where(rng.random(len(odds)) < 1 / (1 + np.exp(-odds)), odds, -odds)
        clusters = np.repeat(np.arange(30), size).tolist()
        held += calibration_interval(margins, clusters, width_bins, samples=200)[0] == 0
        found += calibration_interval(6 * margins, clusters, width_bins, samples=200)[0] > 0
    assert held >= 55 and found >= 33, "margins that are six times too large are seen"


# The win rate against counting, and its interval against resampling by hand.


def counted(mine: list[list[float]], theirs: list[list[float]]) -> float:
    rates = []
    for some, others in zip(mine, theirs, strict=True):
        points = [1.0 if a > b else 0.5 if a == b else 0.0 for a in some for b in others]
        rates.append(sum(points) / len(points))
    return sum(rates) / len(rates)


def test_wins_are_counted_prompt_by_prompt() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mine, theirs = (
            [rng.integers(0, 4, rng.integers(1, 4)).astype(float).tolist() for _ in range(7)] for _ in range(2)
        )
        found = win_rate(mine, theirs, range(7))
        assert found["win_rate"] == pytest.approx(counted(mine, theirs))
        assert found["win_rate"] + win_rate(theirs, mine, range(7))["win_rate"] == pytest.approx(1)
        assert 0 <= found["win_rate_low"] <= found["win_rate_high"] <= 1


def test_ties_are_half_a_win_and_an_equal_policy_wins_half() -> None:
    same = [[1.0], [2.0], [3.0]]
    found, edge = win_rate(same, same, range(3)), 0.025 ** (1 / 3)
    assert found["win_rate"] == 0.5
    assert (found["win_rate_low"], found["win_rate_high"]) == pytest.approx((edge / 2, 1 - edge / 2))
    assert win_rate([[1.0], [1.0]], [[0.0], [1.0]], range(2))["win_rate"] == 0.75


def test_entries_of_one_prompt_are_drawn_together() -> None:
    wins = [[1.0]] * 20 + [[-1.0]] * 20
    apart = win_rate(wins, [[0.0]] * 40, range(40))
    together = win_rate(wins, [[0.0]] * 40, [number // 20 for number in range(40)])
    rng = np.random.default_rng(1)
    by_hand = [np.mean(rng.integers(0, 2, 40)) for _ in range(4000)]
    low, high = np.quantile(by_hand, [0.025, 0.975])
    assert (apart["win_rate_low"], apart["win_rate_high"]) == pytest.approx((low, high), abs=0.05)
    assert together["win_rate_low"] < 0.01 and together["win_rate_high"] > 0.99, "two prompts tell little"


@pytest.mark.parametrize(("mine", "theirs"), [([[1.0]], [[1.0], [2.0]]), ([[]], [[1.0]]), ([[float("nan")]], [[1.0]])])
def test_what_cannot_be_compared_is_an_error(mine: list, theirs: list) -> None:
    with pytest.raises(ValueError, match="rewards for|lacks replies"):
        win_rate(mine, theirs, range(len(mine)))


def test_four_prompts_won_are_no_certainty() -> None:
    """0.025^(1/4) = 0.39764; two entries of one prompt are one trial."""
    assert win_rate([[1.0]] * 5, [[0.0]] * 5, [0, 0, 1, 2, 3])["win_rate_low"] == pytest.approx(0.39764, abs=1e-5)
    assert win_rate([[0.0]] * 4, [[1.0]] * 4, range(4))["win_rate_high"] == pytest.approx(0.60236, abs=1e-5)
