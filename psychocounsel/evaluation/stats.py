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
