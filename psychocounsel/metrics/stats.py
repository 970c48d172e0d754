"""Bootstrap intervals for clustered data: pairs may share a prompt, so whole prompts are resampled."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

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
    rng, means = np.random.default_rng(seed), []
    for start in range(0, samples, 100):  # in blocks of resamples to limit memory, because there may be many clusters
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
    found = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    of_shares = found[:-1]
    of_shares[(totals == sizes).all(0) & shares] = exact_interval(True, count, level)
    of_shares[(totals == 0).all(0) & shares] = exact_interval(False, count, level)
    return np.asarray(found)
