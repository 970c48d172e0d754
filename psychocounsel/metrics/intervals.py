"""Figures with confidence intervals over clusters, and one-sided bounds of shares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

# Intervals for clustered data: pairs may share a prompt, so whole prompts count as the independent units. Means, shares and
# ratios have closed forms; all other figures are resampled.

FEWEST = 5  # clusters; with fewer, an interval of an unbounded figure says nothing
TWO_SIDED_LEVEL = 0.95
EQUAL = 1e-9  # shares that differ by less are equal, apart from rounding


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable],
    samples: int = 1000,
    level: float = TWO_SIDED_LEVEL,
    seed: int = 0,
    trials: int = 0,
) -> tuple[float, float]:
    """Return the interval of `statistic(rows)` over resampled clusters, between the percentiles of `tails`.

    Samples for which the statistic is NaN are skipped. Without clusters the interval is NaN.

    Args:
        statistic: called with row numbers, int64[n]; a cluster's rows appear as often as the cluster was drawn.
        clusters: the cluster of each row.
        samples: number of resamples.
        level: coverage of the interval.
        seed: seed of the resampling.
        trials: for a share, the number of clusters that decide it; if all resamples are equal, the interval is
            `constant_interval` of this number of trials.
    """
    members: dict[Hashable, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(row)
    rows = [np.array(indices) for indices in members.values()]
    if not rows:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    grouped, sizes = np.concatenate(rows), np.array([len(indices) for indices in rows])
    starts = np.cumsum(sizes) - sizes
    values = np.array(
        [
            statistic(grouped[_places(starts[draw], sizes[draw])])
            for draw in rng.integers(0, len(rows), (samples, len(rows)))
        ]
    )
    if trials and np.ptp(values) < EQUAL:
        return constant_interval(float(values[0]), trials, level=level)
    low, high = np.nanquantile(values, tails(len(rows), level))
    return float(low), float(high)


def _places(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the positions of all slices, concatenated: slice i begins at `starts[i]` and holds `sizes[i]` positions."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1])


def tails(clusters: int, level: float = TWO_SIDED_LEVEL) -> tuple[float, float]:
    """Return the two percentiles of a bootstrap, as shares, between which the interval lies.

    Resamples of few clusters spread less than the figure itself, and a normal quantile is too small for them. The
    percentiles lie further out, so that the interval of a mean is as wide as that by Student's t (Hesterberg 2015, The
    American Statistician 69:371).
    """
    from scipy.special import ndtr, stdtrit

    low = (1 - level) / 2
    if clusters > 1:
        low = float(ndtr(stdtrit(clusters - 1, low) * math.sqrt(clusters / (clusters - 1))))
    return low, 1 - low


def constant_interval(
    value: float, trials: int, least: float = 0.0, most: float = 1.0, level: float = TWO_SIDED_LEVEL
) -> tuple[float, float]:
    """Return the interval of a mean between `least` and `most` whose `trials` clusters all have the same `value`.

    Clusters without any spread would promise certainty there. The interval holds every mean that is left if a share of
    the clusters, which `trials` draws would have missed with the probability (1 - level) / 2, has other values. For a share
    of 0 or 1 that is the exact binomial interval (Clopper and Pearson 1934).
    """
    edge = ((1 - level) / 2) ** (1 / trials)
    return value * edge + least * (1 - edge), value * edge + most * (1 - edge)


def mean_intervals(
    values: np.ndarray, clusters: np.ndarray, shares: bool | np.ndarray = False, inflation: float = 1.0
) -> np.ndarray:
    """Return the 95 % intervals of the means of the columns of `values` over clusters, float64[columns, 2].

    They are those of `ratio_intervals`, with one row as the denominator of one row. Without rows they are NaN.

    Args:
        values: float[rows, columns].
        clusters: int[rows], the cluster of each row.
        shares: True for columns whose values lie in [0, 1]; one bool for all columns, or bool[columns].
        inflation: factor of the variance if the clusters are not independent.
    """
    if not len(values):
        return np.full((values.shape[1], 2), np.nan)
    count = values.shape[1]
    ones, are_shares = np.ones_like(values), np.broadcast_to(shares, count)
    return ratio_intervals(values, ones, clusters, np.zeros(count), are_shares, inflation)[:-1]


def mean_interval(values: np.ndarray, clusters: np.ndarray, shares: bool = False) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values`, float[n], over clusters, int[n]; see `mean_intervals`."""
    low, high = mean_intervals(values[:, None], clusters, shares)[0].tolist()
    return low, high


def difference_interval(differences: np.ndarray, clusters: np.ndarray, largest: float = 1.0) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `differences`, float[n] from -largest to largest, over clusters.

    The interval is that of `mean_interval`. If all clusters have the same mean, it is that of `constant_interval`.
    """
    _, rows = np.unique(clusters, return_inverse=True)
    means = np.bincount(rows, differences) / np.bincount(rows)
    if len(means) and np.ptp(means) < EQUAL:
        return constant_interval(float(means[0]), len(means), -largest, largest)
    return mean_interval(differences, clusters)


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Return a number for each name, int64[n]; equal names get equal numbers."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def ratio_intervals(
    sums: np.ndarray,
    counts: np.ndarray,
    clusters: np.ndarray,
    weights: np.ndarray,
    shares: np.ndarray,
    inflation: float = 1.0,
) -> np.ndarray:
    """Return the 95 % intervals of the ratios sum/count of columns over clusters, float64[columns + 1, 2].

    The last row is the interval of the weighted sum of all ratios. Standard errors are cluster-robust: u = (sum - ratio *
    count) / total count of each cluster, and the variance is the sum of u^2 / (1 - w), where w is the cluster's share of the
    total count (CR2: Bell and McCaffrey 2002). The quantile is Student's t with the degrees of freedom of
    `_freedom`. A share has Wilson's interval (1927), with the variance of the clusters instead of the binomial one (Franco
    et al. 2019, Journal of Survey Statistics and Methodology 7:334). If all clusters have the same share, the interval is
    `constant_interval` with one trial per cluster.

    A figure of a single cluster has no spread: the interval of a figure that is no share has no width.

    Args:
        sums: float[rows, columns], numerators of the ratios.
        counts: float[rows, columns], denominators of the ratios.
        clusters: int[rows], the cluster of each row.
        weights: float[columns], weights of the ratios in their sum.
        shares: bool[columns], True for columns whose ratios lie in [0, 1].
        inflation: factor of the variance if the clusters are not independent.
    """
    _, rows = np.unique(clusters, return_inverse=True)
    count = int(rows.max()) + 1
    totals, sizes = (
        np.stack([np.bincount(rows, column, count) for column in values.T], axis=1) for values in (sums, counts)
    )
    whole = np.maximum(sizes.sum(0), 1e-300)
    ratios, held = totals.sum(0) / whole, sizes / whole
    errors = (totals - ratios * sizes) / whole
    errors = errors / np.sqrt(np.where(held < 1, 1 - held, 1))
    errors, freedom = np.column_stack([errors, errors @ weights]), _freedom(held)
    freedom = np.append(freedom, freedom[weights != 0].min(initial=count - 1))
    bounds = _student(
        np.append(ratios, ratios @ weights), np.sqrt(inflation * (errors**2).sum(0)), freedom, np.append(shares, False)
    )
    trials = (sizes > 0).sum(0)
    constant = (np.abs(totals - ratios * sizes) <= EQUAL * np.maximum(sizes, 1)).all(0)
    for column in np.flatnonzero(shares & constant & (trials > 0)):
        bounds[column] = constant_interval(float(ratios[column]), int(trials[column]))
    return bounds


def crossed_interval(values: np.ndarray, weights: np.ndarray, levels: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the 95 % interval of a weighted mean of shares whose rows are crossed by several levels (prompts, seeds, ...).

    The variance is the sum over levels of the variance clustered by this level, less those clustered by each two levels
    together, and so on (Cameron, Gelbach and Miller 2011, Journal of Business & Economic Statistics 29:238), and at least
    the largest of the first. The degrees of freedom of Student's t are Satterthwaite's (1946). If all shares are equal,
    the interval is `constant_interval` with one trial per cluster of the level that has the most.

    Args:
        values: float[n], from 0 to 1.
        weights: float[n], with the sum 1.
        levels: the cluster of each row, int[n], for each level.
    """
    mean = float(weights @ values)
    errors = weights * (values - mean)
    levels = [level for level in levels if (level != level[0]).any()]
    counts = [len(np.unique(level)) for level in levels]
    if np.ptp(values) < EQUAL:
        return constant_interval(float(values[0]), max(counts, default=1))

    def variance(chosen: Sequence[np.ndarray]) -> float:
        _, cluster = np.unique(np.stack(chosen), axis=1, return_inverse=True)
        sums = np.bincount(cluster.ravel(), errors)
        return float((sums**2).sum()) * len(sums) / (len(sums) - 1)

    single = np.array([variance([level]) for level in levels])
    sizes = range(1, len(levels) + 1)
    total = sum(-((-1) ** size) * variance(chosen) for size in sizes for chosen in combinations(levels, size))
    total = max(total, single.max(initial=0))
    spread = (single**2 / (np.array(counts) - 1)).sum()
    freedom = total**2 / spread if spread else 0.0
    low, high = _student(*(np.array([number]) for number in (mean, math.sqrt(total), freedom, True)))[0]
    return float(low), float(high)


def _freedom(held: np.ndarray) -> np.ndarray:
    """Return the degrees of freedom of a cluster-robust variance, float64[columns] (Bell and McCaffrey 2002).

    `held`: float[clusters, columns], each cluster's share w of the rows. The variance is V = sum of w^2 (m_c - mean)^2 / (1 -
    w) over the means m_c of clusters. The result is 2 E(V)^2 / Var(V) for independent normal m_c of equal variance: G - 1 for
    G equal clusters, fewer if a few clusters hold most rows, and 0 for a single cluster.
    """
    each = np.where(held < 1, held**2 / np.where(held < 1, 1 - held, 1), 0)
    square = (held**2).sum(0)
    s0, s1, s2 = each.sum(0), (each * held).sum(0), (each * held**2).sum(0)
    trace = (each * (1 - 2 * held + square)).sum(0)
    spread = square**2 * s0**2 + 2 * s0 * s2 - 4 * square * s0 * s1 + 2 * s1**2
    spread += (each**2 * ((1 + square - 2 * held) ** 2 - (square - 2 * held) ** 2)).sum(0)
    return np.where(spread > 0, trace**2 / np.where(spread > 0, spread, 1), 0)


def _student(values: np.ndarray, errors: np.ndarray, freedom: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the 95 % intervals of `values` by Student's t, for shares in Wilson's form, float64[n, 2]; all float[n]."""
    from scipy.special import stdtrit

    known = freedom > 0
    quantile = stdtrit(np.where(known, freedom, 1), (1 + TWO_SIDED_LEVEL) / 2)
    half = quantile * errors
    bounds = np.stack([values - half, values + half], axis=1)
    free = shares & (values > 0) & (values < 1)
    binomial = np.where(free, values * (1 - values), 1)
    excess = half**2 / binomial
    middle, reach = (values + excess / 2) / (1 + excess), np.sqrt(half**2 + excess**2 / 4) / (1 + excess)
    bounds[free] = np.stack([middle - reach, middle + reach], axis=1)[free]
    bounds[shares & ~known] = 0.0, 1.0
    return bounds


# `Measure`, a figure with its interval; resamples of prompts; and figures in a form that is valid JSON.

_AT_A_TIME = 100  # resamples; with 10,000 prompts they take 8 MB
_MOST_KEPT = 2_000_000  # numbers of a table of resamples that is kept; as int32 they take 8 MB


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure and its 95 % interval; NaN if the verdicts do not determine them."""

    value: float
    low: float
    high: float


def draws(prompts: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield bootstrap resamples in blocks, int[at most 100, prompts]: the number of times that each prompt is drawn.

    Resamples of up to two million numbers stay in memory, because most figures of an evaluation use the same ones.
    """
    if prompts * samples <= _MOST_KEPT:
        kept = _kept_draws(prompts, samples, seed)
        return (kept[start : start + _AT_A_TIME] for start in range(0, len(kept), _AT_A_TIME))
    return _draws(prompts, samples, seed)


@lru_cache(maxsize=4)
def _kept_draws(prompts: int, samples: int, seed: int) -> np.ndarray:
    kept = np.concatenate(
        [np.empty((0, prompts), np.int32), *_draws(prompts, samples, seed)], dtype=np.int32, casting="same_kind"
    )
    kept.flags.writeable = False
    return kept


def _draws(prompts: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, samples if prompts else 0, _AT_A_TIME):
        yield rng.multinomial(prompts, np.full(prompts, 1 / prompts), min(_AT_A_TIME, samples - start))


def measure(value: float, resampled: np.ndarray, clusters: int) -> Measure:
    """Return `value` with the interval of its finite resampled values, between the percentiles of `tails`.

    Equal resamples do not show how far the figure may be off; the bounds are NaN then. `clusters`: number of the clusters
    that were resampled.
    """
    known = resampled[np.isfinite(resampled)]
    if math.isnan(value) or not len(known) or np.ptp(known) < EQUAL:
        return Measure(float(value), math.nan, math.nan)
    low, high = np.quantile(known, tails(clusters))
    return Measure(float(value), float(low), float(high))


def plain(figures: Any) -> Any:
    """Return figures as valid JSON: dataclasses become dictionaries; NaN and infinity become None."""
    if dataclasses.is_dataclass(figures) and not isinstance(figures, type):
        return {field.name: plain(getattr(figures, field.name)) for field in dataclasses.fields(figures)}
    if isinstance(figures, dict):
        return {name: plain(figure) for name, figure in figures.items()}
    if isinstance(figures, list | tuple):
        return [plain(figure) for figure in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


# One-sided confidence bounds of a share and of the difference of two paired shares.
#
# Counts may be fractions, because a cluster of cases may contribute its mean.

LEVEL = 0.95


def upper_bound(failures: float, cases: float, level: float = LEVEL) -> float:
    """Return the one-sided exact upper bound of a failure rate (Clopper and Pearson 1934); 1 without cases.

    The bound is the `level` quantile of the beta distribution with parameters failures + 1 and cases - failures.
    `failures` may be the sum of values in [0, 1] of independent clusters; the quantile then interpolates between whole
    counts. Such values vary less than failures of the same rate that are 0 or 1, so the bound keeps its level
    (docs/safety.md#the-gate describes the check).
    """
    from scipy.stats import beta

    return 1.0 if failures >= cases else float(beta.ppf(level, failures + 1, cases - failures))


def lower_bound(failures: float, cases: float) -> float:
    """Return the one-sided exact lower bound of a failure rate: 1 - `upper_bound` of the cases without failure."""
    return 1 - upper_bound(cases - failures, cases)


def tango(worse: np.ndarray, better: np.ndarray, items: float, margin: float) -> np.ndarray:
    """Return Tango's (1998) score statistic for the hypothesis share(worse) - share(better) = `margin`.

    If the variance under the hypothesis is 0, the score is 0 at the observed difference and otherwise infinite.

    Args:
        worse: number of items that got worse.
        better: number of items that got better.
        items: number of all paired items.
        margin: hypothetical difference.
    """
    linear = -worse - better + (2 * items - worse + better) * margin
    root = np.sqrt(np.maximum(linear**2 + 8 * items * better * margin * (1 - margin), 0))
    share = (root - linear) / (4 * items)
    distance, variance = worse - better - items * margin, items * (2 * share + margin * (1 - margin))
    certain = np.where(np.abs(distance) < 1e-9, 0.0, np.copysign(np.inf, distance))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-14, distance / np.sqrt(np.abs(variance)), certain)


def difference_upper(worse: float, better: float, items: float, level: float = LEVEL) -> float:
    """Return the one-sided upper bound of share(worse) - share(better) over paired items; 1 without items.

    The score bound (Tango 1998) is the difference at which `tango` equals the negative normal quantile of `level`. It is
    too low if nearly all items changed in one direction: at 52 items it fails in 7 % of cases instead of 5 %. If more
    items got worse than better, or as many, the result is therefore the larger of two bounds, the score bound and
    `upper_bound` of worse - better failures.

    Without any change (worse = better = 0), the score bound is z^2 / (n + z^2), and the other 1 - (1 - level)^(1/n).

    Args:
        worse: number of items that got worse; for clusters of items, the sum of their positive differences.
        better: number of items that got better; for clusters, the sum of their negative differences without the sign.
        items: number of all paired items, or of clusters.
        level: probability with which the bound holds.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    observed = (worse - better) / items if items else 1.0
    if observed >= 1:
        return 1.0
    quantile = float(norm.ppf(level))

    def excess(difference: float) -> float:
        return float(tango(np.array(worse), np.array(better), items, difference)) + quantile

    edge = 1 - 1e-12
    score = float(brentq(excess, observed, edge)) if excess(edge) < 0 else 1.0
    return max(score, upper_bound(worse - better, items, level)) if worse >= better else score


def difference_lower(worse: float, better: float, items: float, level: float = LEVEL) -> float:
    """Return the one-sided lower bound of share(worse) - share(better) over paired items; -1 without items.

    The arguments are those of `difference_upper`.
    """
    return -difference_upper(better, worse, items, level)


def first_that_holds(holds: Callable[[int], bool], least: int, most: int) -> int | None:
    """Return the smallest integer from `least` to `most` for which `holds` is True; None if none exists.

    `holds` must be monotonic: once True, it stays True for all larger numbers.
    """
    if least > most or not holds(most):
        return None
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if holds(middle) else (middle + 1, most)
    return least
