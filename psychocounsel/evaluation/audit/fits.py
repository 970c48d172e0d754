"""Linear models of differences without an intercept: they prefer the second reply of (a, b) just as the first of (b, a)."""

from typing import Any

import numpy as np

Array = np.ndarray

MOST_FITTED = 12_000  # pairs


def fit_logistic(differences: Array, train: Array) -> Array:
    """Logistic regression on features in units of their root mean square over `train`; margins of all rows, float64[rows]."""
    from sklearn.linear_model import LogisticRegression

    scale = np.sqrt((differences[train] ** 2).mean(0))
    scaled = differences / np.where(scale > 0, scale, 1.0)
    side = _sides(len(train))
    model = LogisticRegression(fit_intercept=False, max_iter=500)
    model.fit(scaled[train] * side[:, None], side)
    return scaled @ model.coef_[0]


def fit_sparse(differences: Any, train: Array) -> Array:
    """A linear support vector machine on a sparse matrix (Fan et al. 2008); margins of all rows, float64[rows].

    It is fitted to at most `MOST_FITTED` rows of `train`, drawn at random, to limit memory and time.
    """
    from sklearn.svm import LinearSVC

    if len(train) > MOST_FITTED:
        train = np.sort(np.random.default_rng(0).choice(train, MOST_FITTED, replace=False))
    side = _sides(len(train))
    turned = differences[train]
    turned.data = turned.data * np.repeat(side, np.diff(turned.indptr))
    model = LinearSVC(C=0.1, fit_intercept=False, random_state=0, tol=1e-3)
    model.fit(turned, side)
    return np.asarray(differences @ model.coef_[0])


def fit_best_cue(signs: Array, train: Array) -> Array:
    """The single cue, in the one direction, that wins most pairs of `train`; its margins of all rows, float64[rows]."""
    wins = signs[train].mean(0)
    best = int(np.abs(wins).argmax())
    return signs[:, best] * (1.0 if wins[best] >= 0 else -1.0)


def _sides(count: int) -> Array:
    """1 and -1 in turns: pairs as (chosen, rejected) and (rejected, chosen), so that there are two classes to tell apart.

    Without an intercept the loss of a pair is the same either way.
    """
    return np.where(np.arange(count) % 2, -1.0, 1.0)
