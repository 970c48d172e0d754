"""`Measure`, a figure with its interval; resamples of prompts; and figures in a form that is valid JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

LEVEL = 0.95
_AT_A_TIME = 100  # resamples; with 10,000 prompts they take 8 MB


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure and its 95 % interval; NaN if the verdicts do not determine them."""

    value: float
    low: float
    high: float


def draws(prompts: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield bootstrap resamples in blocks, int[at most 100, prompts]: the number of times that each prompt is drawn."""
    rng = np.random.default_rng(seed)
    for start in range(0, samples if prompts else 0, _AT_A_TIME):
        yield rng.multinomial(prompts, np.full(prompts, 1 / prompts), min(_AT_A_TIME, samples - start))


def measure(value: float, resampled: np.ndarray) -> Measure:
    """Return `value` with the percentile interval (Efron and Tibshirani 1993, ch. 13) of its finite resampled values."""
    known = resampled[np.isfinite(resampled)]
    if math.isnan(value) or not len(known):
        return Measure(float(value), math.nan, math.nan)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measure(float(value), float(low), float(high))


def plain(figures: Any) -> Any:
    """Return figures as valid JSON: dataclasses become dictionaries; NaN and infinity become None."""
    if dataclasses.is_dataclass(figures) and not isinstance(figures, type):
        return {field.name: plain(getattr(figures, field.name)) for field in dataclasses.fields(figures)}
    if isinstance(figures, dict):
        return {name: plain(each) for name, each in figures.items()}
    if isinstance(figures, list | tuple):
        return [plain(each) for each in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures
