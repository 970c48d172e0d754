"""Intervals for figures of data that come in clusters: several pairs share a prompt, so prompts are resampled."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

FEWEST = 5  # clusters, below which an interval of an unbounded figure would be far too narrow


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable],
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    trials: int = 0,
) -> tuple[float, float]:
    """Percentile interval of `statistic(rows)` over resampled clusters (Efron and Tibshirani 1993, ch. 13).

    `clusters` names the cluster of each row; `statistic` gets row numbers, int64[n], a cluster's rows as often as it was
    drawn. Samples for which it is NaN are left out; without a cluster the interval is NaN. `trials`: the number of clusters that
    decide the statistic, if it is a share; where all resamples are 0, or all 1, the interval is `exact_interval`.
    """
    members: dict[Hashable, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(row)
    rows = [np.array(each) for each in members.values()]
    if not rows:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(rows), (samples, len(rows)))
    values = np.array([statistic(np.concatenate([rows[index] for index in draw])) for draw in draws])
    if trials and (values == values[0]).all() and values[0] in (0.0, 1.0):
        return exact_interval(bool(values[0]), trials, level)
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
    """Percentile intervals of the means of the columns of `values`, over resampled clusters; float64[columns, 2].

    `values`: float[rows, columns]; `clusters`: int[rows]. As `bootstrap`, from sums and sizes of clusters alone, so that many
    rows and columns cost little; all columns see the same resamples. `shares` says, of all or each column, whether its values
    lie between 0 and 1. Where all of such a column are 0, or all 1, every resample is the same and would promise certainty:
    its interval then is the exact binomial one of as many trials as there are clusters (Clopper and Pearson 1934).
    """
    _, rows = np.unique(clusters, return_inverse=True)
    count = int(rows.max()) + 1 if len(rows) else 0
    if not count:
        return np.full((values.shape[1], 2), np.nan)
    sums = np.stack([np.bincount(rows, column, count) for column in values.T], axis=1)
    sizes = np.bincount(rows, minlength=count)
    rng, means = np.random.default_rng(seed), []
    for start in range(0, samples, 100):  # a part of the resamples at a time: clusters may be many
        drawn = rng.multinomial(count, np.full(count, 1 / count), min(100, samples - start))
        means.append((drawn @ sums) / (drawn @ sizes)[:, None])
    found = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0).T
    found[(sums == sizes[:, None]).all(0) & shares] = exact_interval(True, count, level)
    found[(sums == 0).all(0) & shares] = exact_interval(False, count, level)
    return found


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
    """Percentile intervals of the ratios sum/count of columns over resampled clusters; float64[columns + 1, 2].

    `sums`, `counts`: float[rows, columns]; `clusters`: int[rows]; `weights`: float[columns]. The last row is the interval of the
    sum of all ratios, each times its weight. `shares`: bool[columns], as in `mean_intervals`.
    """
    _, rows = np.unique(clusters, return_inverse=True)
    count = int(rows.max()) + 1
    totals, sizes = (
        np.stack([np.bincount(rows, column, count) for column in values.T], axis=1) for values in (sums, counts)
    )
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), samples)
    ratios = (drawn @ totals) / np.maximum(drawn @ sizes, 1)
    ratios = np.column_stack([ratios, ratios @ weights])
    found = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    of_shares = found[:-1]
    of_shares[(totals == sizes).all(0) & shares] = exact_interval(True, count, level)
    of_shares[(totals == 0).all(0) & shares] = exact_interval(False, count, level)
    return np.asarray(found)
