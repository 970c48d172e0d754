"""Long curves to few points, of which each is one of the curve: the lowest and the highest of every stretch."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MOST = 500  # points of a curve on the page
_FEWEST = 60
_BUDGET = 130_000  # points of all long curves together: about six megabytes


def points_per_curve(lengths: Sequence[int]) -> int:
    """So many points each curve of these lengths may have, that all together stay within the page's budget."""
    long = sum(length > _FEWEST for length in lengths)
    return max(_FEWEST, min(MOST, _BUDGET // max(long, 1)))


def kept(y: Sequence[float], most: int) -> list[int]:
    """The places of the points to show, in order, the first and the last among them; all where there are at most `most`."""
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
