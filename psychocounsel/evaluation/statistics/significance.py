"""Sign-flip test of a win rate against 1/2, over prompts, adjusted for the number of comparisons in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_EXACT = 14  # prompts that are not ties; 2^14 = 16,384 patterns of signs
_FLIPS = 10_000


@dataclass(frozen=True)
class Tested:
    """Two-sided p-values of one comparison: `raw`, and `adjusted` by Holm's method (1979) for all of its table."""

    raw: float
    adjusted: float


def sign_flip(means: np.ndarray, seed: int = 0) -> float:
    """Return the two-sided p-value of "a and b are equally good", from a's mean score on each prompt, float64[m], 0 to 1.

    If a and b are equally good, the deviation of a prompt, score - 1/2, has either sign with the same probability. The test
    compares the sum of the deviations with sums under flipped signs (Fisher's randomisation test). With at most 14 deviating
    prompts, all patterns of signs are used. Otherwise 10,000 random patterns are used, and the p-value is
    (1 + larger) / (1 + 10,000) (Phipson and Smyth 2010). NaN without prompts.
    """
    if not len(means):
        return math.nan
    apart = means[means != 0.5] - 0.5
    found = abs(apart.sum()) * (1 - 1e-9)  # equal sums may differ by rounding
    if len(apart) <= _EXACT:
        signs = (np.arange(2 ** len(apart))[:, None] >> np.arange(len(apart))) % 2 * 2 - 1
        return float(np.mean(np.abs(signs @ apart) >= found))
    rng, larger = np.random.default_rng(seed), 0
    for _ in range(0, _FLIPS, 500):
        flipped = rng.integers(0, 2, (500, len(apart)), dtype=np.int8) @ apart * 2 - apart.sum()
        larger += int(np.sum(np.abs(flipped) >= found))
    return (1 + larger) / (1 + _FLIPS)


def holm(values: np.ndarray) -> np.ndarray:
    """Return p-values adjusted by Holm's step-down method (1979), float64[k]; NaN stays NaN and is not counted."""
    adjusted = np.full(len(values), np.nan)
    order = np.argsort(values)[: int(np.sum(~np.isnan(values)))]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors)) if len(order) else []
    return adjusted


def adjusted_tests(comparisons: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, Tested]:
    """Return both p-values of every comparison of a table; `comparisons` holds the mean scores of prompts by name."""
    raw = np.array([sign_flip(means, seed) for means in comparisons.values()])
    pairs = zip(comparisons, raw, holm(raw), strict=True)
    return {name: Tested(float(value), float(adjusted)) for name, value, adjusted in pairs}
