"""Folds for cross-fitting: a model is never judged on pairs that share a text with those it was fitted to."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
LEAST_FITTED = 10  # pairs
Fit = Callable[[Any, Array], Array]  # (differences of all pairs, rows to fit to) -> margins of all pairs


@dataclass(frozen=True)
class Fold:
    """Rows of pairs, int64: those to fit to, and those to judge."""

    train: Array
    test: Array


def by_component(component: Array, count: int, seed: int) -> list[Fold]:
    """At most `count` folds of whole components, with as equal numbers of pairs as these allow."""
    part = _spread(component, count, seed)
    return [Fold(np.flatnonzero(part != number), np.flatnonzero(part == number)) for number in np.unique(part)]


def by_topic(topic: Array, component: Array, most: int, seed: int) -> list[Fold]:
    """A fold for each topic, or of several topics where there are more than `most`.

    What is fitted sees no pair of a component that reaches into the topics it is judged on. Topics that leave fewer than
    `LEAST_FITTED` pairs to fit to have no fold: nothing judges their pairs.
    """
    part, folds = _spread(topic, most, seed), []
    for number in np.unique(part):
        test = np.flatnonzero(part == number)
        folds.append(Fold(np.flatnonzero(~np.isin(component, component[test])), test))
    return [fold for fold in folds if len(fold.train) >= LEAST_FITTED]


def _spread(group: Array, count: int, seed: int) -> Array:
    """The fold of each row, int64[rows]: whole groups, the largest first, each to the fold with the fewest rows."""
    numbers, sizes = np.unique(group, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-sizes[order], kind="stable")]
    rows, place = np.zeros(min(count, len(numbers)), np.int64), np.empty(len(numbers), np.int64)
    for index in order:
        place[index] = rows.argmin()
        rows[place[index]] += sizes[index]
    return place[np.searchsorted(numbers, group)]


def cross_fit(differences: Any, folds: Sequence[Fold], fit: Fit, workers: int) -> Array:
    """Margins of pairs, each by a fit that has not seen it, float64[pairs]; NaN for pairs that no fold judges.

    A positive margin prefers the chosen reply. `differences`: features of the chosen less those of the rejected reply.
    """
    margins = np.full(differences.shape[0], np.nan)
    with ThreadPoolExecutor(workers) as pool:
        for fold, found in zip(folds, pool.map(lambda fold: fit(differences, fold.train), folds), strict=True):
            margins[fold.test] = found[fold.test]
    return margins
