"""Figures with confidence intervals: bootstrap over clusters, and one-sided bounds of shares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

# Bootstrap intervals for clustered data: pairs may share a prompt, so whole prompts are resampled.

FEWEST = 5  # clusters; with fewer, an interval of an unbounded figure would be far too narrow


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable],
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    trials: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of `statistic(rows)` over resampled clusters (Efron and Tibshirani 1993, ch. 13).

    Samples for which the statistic is NaN are skipped. Without clusters the interval is NaN.

    Args:
        statistic: called with row numbers, int64[n]; a cluster's rows appear as often as the cluster was drawn.
        clusters: the cluster of each row.
        samples: number of resamples.
        level: coverage of the interval.
        seed: seed of the resampling.
        trials: for a share, the number of clusters that decide it; if all resamples are 0, or all 1, the interval is
            `exact_interval` of this number of trials.
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
    if trials and (values == values[0]).all() and values[0] in (0.0, 1.0):
        return exact_interval(bool(values[0]), trials, level)
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _places(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the positions of all slices, concatenated: slice i begins at `starts[i]` and holds `sizes[i]` positions."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1])


def exact_interval(won: bool, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval (Clopper and Pearson 1934) of a share whose `trials` were all won, or all lost.

    A bootstrap would promise certainty there, because all its resamples are equal.
    """
    edge = ((1 - level) / 2) ** (1 / trials)
    return (edge, 1.0) if won else (0.0, 1 - edge)


def mean_intervals(
    values: np.ndarray,
    clusters: np.ndarray,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    shares: bool | np.ndarray = False,
) -> np.ndarray:
    """Return percentile intervals of the means of the columns of `values` over resampled clusters, float64[columns, 2].

    It agrees with `bootstrap`, but works on sums and sizes of clusters, so large tables cost little. All columns see
    the same resamples.

    If all values of a share are 0, or all are 1, every resample is the same and the interval would promise certainty.
    Such a column gets the exact binomial interval with one trial per cluster (Clopper and Pearson 1934).

    Args:
        values: float[rows, columns].
        clusters: int[rows], the cluster of each row.
        samples: number of resamples.
        level: coverage of the intervals.
        seed: seed of the resampling.
        shares: True for columns whose values lie in [0, 1]; one bool for all columns, or bool[columns].
    """
    _, rows = np.unique(clusters, return_inverse=True)
    count = int(rows.max()) + 1 if len(rows) else 0
    if not count:
        return np.full((values.shape[1], 2), np.nan)
    sums = np.stack([np.bincount(rows, column, count) for column in values.T], axis=1)
    sizes = np.bincount(rows, minlength=count)
    won, lost = (sums == sizes[:, None]).all(0) & shares, (sums == 0).all(0) & shares
    bounds = np.empty((values.shape[1], 2))
    if not (won | lost).all():
        means = [(drawn @ sums) / (drawn @ sizes)[:, None] for drawn in draws(count, samples, seed)]
        bounds = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0).T
    bounds[won], bounds[lost] = exact_interval(True, count, level), exact_interval(False, count, level)
    return bounds


def ratio_intervals(
    sums: np.ndarray,
    counts: np.ndarray,
    clusters: np.ndarray,
    weights: np.ndarray,
    shares: np.ndarray,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> np.ndarray:
    """Return percentile intervals of the ratios sum/count of columns over resampled clusters, float64[columns + 1, 2].

    The last row is the interval of the weighted sum of all ratios. As in `mean_intervals`, a share whose rows are all 0
    or all 1 gets the exact binomial interval.

    Args:
        sums: float[rows, columns], numerators of the ratios.
        counts: float[rows, columns], denominators of the ratios.
        clusters: int[rows], the cluster of each row.
        weights: float[columns], weights of the ratios in their sum.
        shares: bool[columns], True for columns whose ratios lie in [0, 1].
        samples: number of resamples.
        level: coverage of the intervals.
        seed: seed of the resampling.
    """
    _, rows = np.unique(clusters, return_inverse=True)
    count = int(rows.max()) + 1
    totals, sizes = (
        np.stack([np.bincount(rows, column, count) for column in values.T], axis=1) for values in (sums, counts)
    )
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), samples)
    ratios = (drawn @ totals) / np.maximum(drawn @ sizes, 1)
    ratios = np.column_stack([ratios, ratios @ weights])
    bounds = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    of_shares = bounds[:-1]
    of_shares[(totals == sizes).all(0) & shares] = exact_interval(True, count, level)
    of_shares[(totals == 0).all(0) & shares] = exact_interval(False, count, level)
    return np.asarray(bounds)


# `Measure`, a figure with its interval; resamples of prompts; and figures in a form that is valid JSON.

TWO_SIDED_LEVEL = 0.95
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


def measure(value: float, resampled: np.ndarray) -> Measure:
    """Return `value` with the percentile interval (Efron and Tibshirani 1993, ch. 13) of its finite resampled values."""
    known = resampled[np.isfinite(resampled)]
    if math.isnan(value) or not len(known):
        return Measure(float(value), math.nan, math.nan)
    low, high = np.quantile(known, [(1 - TWO_SIDED_LEVEL) / 2, (1 + TWO_SIDED_LEVEL) / 2])
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


def lower_bound(failures: float, cases: float, level: float = LEVEL) -> float:
    """Return the one-sided exact lower bound of a failure rate: 1 - `upper_bound` of the cases without failure."""
    return 1 - upper_bound(cases - failures, cases, level)


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
