"""Halo and ceiling of ratings: how strongly the principles correlate, and how often a rating is the highest possible."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def halo(ratings: np.ndarray, names: Sequence[str], top: float) -> dict[str, Any]:
    """Return the halo figures of `ratings`, float[replies, principles]; `top` is the highest possible rating.

    `alpha` is Cronbach's alpha (1951). `first_component` is the share of variance of the first principal component of the
    correlation matrix. Each principle has its mean, its standard deviation, the share of ratings at `top`, and its
    correlation with the sum of the others. A figure that would divide by zero variance is None, and `first_component`
    and `mean_correlation` exclude principles without variance.
    """
    varying = np.flatnonzero(ratings.std(0) > 0) if len(ratings) > 1 else np.array([], int)
    matrix = np.corrcoef(ratings[:, varying].T) if len(varying) > 1 else None
    correlations = np.full((len(names), len(names)), np.nan)
    if matrix is not None:
        correlations[np.ix_(varying, varying)] = matrix
    total = ratings.sum(1)
    principles = {
        name: {
            "mean": float(ratings[:, column].mean()),
            "deviation": float(ratings[:, column].std()),
            "at_top": float((ratings[:, column] >= top).mean()),
            "with_others": _correlation(ratings[:, column], total - ratings[:, column]),
        }
        for column, name in enumerate(names)
    }
    return {
        "replies": len(ratings),
        "alpha": cronbach(ratings),
        "first_component": None if matrix is None else float(np.linalg.eigvalsh(matrix)[-1] / len(varying)),
        "mean_correlation": None if matrix is None else float(matrix[np.triu_indices(len(varying), 1)].mean()),
        "correlations": [[None if np.isnan(value) else float(value) for value in row] for row in correlations],
        "principles": principles,
    }


def cronbach(ratings: np.ndarray) -> float | None:
    """Return Cronbach's alpha, k / (k - 1) x (1 - sum of the k columns' variances / variance of their sum).

    The result is None if the sum does not vary.
    """
    whole = ratings.sum(1).var(ddof=1) if len(ratings) > 1 else 0.0
    count = ratings.shape[1]
    return float(count / (count - 1) * (1 - ratings.var(0, ddof=1).sum() / whole)) if whole > 0 else None


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 2 or not (first.std() > 0 and second.std() > 0):
        return None
    return float(np.corrcoef(first, second)[0, 1])
