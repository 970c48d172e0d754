"""Intervals for figures of data that come in clusters: several pairs share a prompt, so prompts are resampled."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable],
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of `statistic(rows)` over resampled clusters (Efron and Tibshirani 1993, ch. 13).

    `clusters` names the cluster of each row; `statistic` gets row numbers, int64[n], a cluster's rows as often as it was
    drawn. Samples for which it is NaN are left out; without a cluster the interval is NaN.
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
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
    edge = ((1 - level) / 2) ** (1 / count)
    found[(sums == sizes[:, None]).all(0) & shares] = edge, 1
    found[(sums == 0).all(0) & shares] = 0, 1 - edge
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
    edge = ((1 - level) / 2) ** (1 / count)
    of_shares = found[:-1]
    of_shares[(totals == sizes).all(0) & shares] = edge, 1
    of_shares[(totals == 0).all(0) & shares] = 0, 1 - edge
    return np.asarray(found)
