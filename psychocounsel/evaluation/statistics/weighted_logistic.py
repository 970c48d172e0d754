"""Logistic regression of scores between 0 and 1, for many weightings of the same rows at once."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

RIDGE = 0.01  # a normal prior of mean 0 and SD 10 log-odds for each term: it matters only where the data give no limit
_STEPS, _TOLERANCE, _LARGEST = 200, 1e-9, 1.0


def fit_logistic(
    terms: np.ndarray, scores: np.ndarray, weights: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """Coefficients float64[s, d] for s weightings, by Newton's method with steps of at most 1.

    Args:
        terms: float64[n, d].
        scores: float64[n] or [s, n], between 0 and 1.
        weights: float64[s, n], not negative.
        start: float64[d] to begin from; zeros by default.
    """
    found = np.zeros((len(weights), terms.shape[1])) + (0 if start is None else start)
    products = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    square = (len(weights), terms.shape[1], terms.shape[1])
    for _ in range(_STEPS):
        chances = expit(found @ terms.T)
        gradient = (weights * (scores - chances)) @ terms - RIDGE * found
        curvature = ((weights * chances * (1 - chances)) @ products).reshape(square) + RIDGE * np.eye(terms.shape[1])
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        size = np.abs(step).max(initial=0)
        found += step / np.maximum(1, np.abs(step).max(1, keepdims=True) / _LARGEST)
        if size < _TOLERANCE:
            break
    return found
