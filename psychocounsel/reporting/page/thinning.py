"""Thinning of long curves: keeps the lowest and the highest point of each stretch, so every point shown is a real point."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MOST = 500  # points per curve on the page
_FEWEST = 60
_BUDGET = 130_000  # points of all long curves together: about six megabytes


def points_per_curve(lengths: Sequence[int]) -> int:
    """Return the points allowed per curve, 60 to 500: the page's budget divided by the number of long curves."""
    long = sum(length > _FEWEST for length in lengths)
    return max(_FEWEST, min(MOST, _BUDGET // max(long, 1)))


def kept(y: Sequence[float], most: int) -> list[int]:
    """Return the indices of the points to show, in order, including the first and the last. With at most `most` points: all."""
    count = len(y)
    if count <= most:
        return list(range(count))
    values = np.asarray(y, dtype=float)
    low = np.where(np.isfinite(values), values, np.inf)
    high = np.where(np.isfinite(values), values, -np.inf)
    edges = np.linspace(1, count - 1, (most - 2) // 2 + 1).astype(int)
    places = {0, count - 1}
    for begin, end in pairwise(edges):
        places |= {int(begin + low[begin:end].argmin()), int(begin + high[begin:end].argmax())}
    return sorted(places)
