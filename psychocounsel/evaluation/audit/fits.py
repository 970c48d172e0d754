"""Linear models of feature differences without an intercept, so that swapping a pair's replies negates its margin."""

from typing import Any

import numpy as np

Array = np.ndarray

MOST_FITTED = 12_000  # pairs


def fit_logistic(differences: Array, train: Array) -> Array:
    """Fit a logistic regression to the rows `train` and return the margins of all rows, float64[rows].

    Each feature is divided by its root mean square over `train`.
    """
    from sklearn.linear_model import LogisticRegression

    scale = np.sqrt((differences[train] ** 2).mean(0))
    scaled = differences / np.where(scale > 0, scale, 1.0)
    side = _sides(len(train))
    model = LogisticRegression(fit_intercept=False, max_iter=500)
    model.fit(scaled[train] * side[:, None], side)
    return scaled @ model.coef_[0]


def fit_sparse(differences: Any, train: Array) -> Array:
    """Fit a linear support vector machine (Fan et al. 2008) to sparse rows; return the margins of all rows, float64[rows].

    At most `MOST_FITTED` random rows of `train` are used, to limit memory and time.
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
    """Pick the cue and direction that win most pairs of `train`; return its margins of all rows, float64[rows]."""
    wins = signs[train].mean(0)
    best = int(np.abs(wins).argmax())
    return signs[:, best] * (1.0 if wins[best] >= 0 else -1.0)


def _sides(count: int) -> Array:
    """Return alternating 1 and -1, float64[count]: every second pair is presented as (rejected, chosen).

    The fits need two classes. Without an intercept, the order does not change the loss of a pair.
    """
    return np.where(np.arange(count) % 2, -1.0, 1.0)
