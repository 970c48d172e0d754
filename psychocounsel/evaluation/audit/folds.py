"""Folds for cross-fitting: the pairs that test a model share no text with the pairs that it was fitted to."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
LEAST_FITTED = 10  # pairs
Fit = Callable[[Any, Array], Array]  # (differences of all pairs, training rows) -> margins of all pairs


@dataclass(frozen=True)
class Fold:
    """Indices (int64) of the pairs to fit to (`train`) and of the pairs to test on (`test`)."""

    train: Array
    test: Array


def by_component(component: Array, count: int, seed: int) -> list[Fold]:
    """Return at most `count` folds of whole components, with numbers of pairs as equal as the components allow."""
    part = _spread(component, count, seed)
    return [Fold(np.flatnonzero(part != number), np.flatnonzero(part == number)) for number in np.unique(part)]


def by_topic(topic: Array, component: Array, most: int, seed: int) -> list[Fold]:
    """Return one fold per topic; if there are more than `most` topics, `most` folds of several topics each.

    The training pairs of a fold exclude every component that has a pair in the fold's topics. A fold with fewer than
    `LEAST_FITTED` training pairs is dropped, so its pairs are never tested.
    """
    part, folds = _spread(topic, most, seed), []
    for number in np.unique(part):
        test = np.flatnonzero(part == number)
        folds.append(Fold(np.flatnonzero(~np.isin(component, component[test])), test))
    return [fold for fold in folds if len(fold.train) >= LEAST_FITTED]


def _spread(group: Array, count: int, seed: int) -> Array:
    """Return the fold of each row, int64[rows]. Each group, the largest first, goes to the fold with the fewest rows."""
    numbers, sizes = np.unique(group, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-sizes[order], kind="stable")]
    rows, place = np.zeros(min(count, len(numbers)), np.int64), np.empty(len(numbers), np.int64)
    for index in order:
        place[index] = rows.argmin()
        rows[place[index]] += sizes[index]
    return place[np.searchsorted(numbers, group)]


def cross_fit(differences: Any, folds: Sequence[Fold], fit: Fit, workers: int) -> Array:
    """Return each pair's margin by a model that was not fitted to it, float64[pairs]; NaN for pairs in no test fold.

    A positive margin prefers the chosen reply. `differences`: features of the chosen minus the rejected reply.
    """
    margins = np.full(differences.shape[0], np.nan)
    with ThreadPoolExecutor(workers) as pool:
        for fold, found in zip(folds, pool.map(lambda fold: fit(differences, fold.train), folds), strict=True):
            margins[fold.test] = found[fold.test]
    return margins
