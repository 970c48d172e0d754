"""Logistic regression of scores between 0 and 1, fitted for many weightings of the same rows at once."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

RIDGE = 0.01  # normal prior with mean 0 and SD 10 log-odds on each term; it matters only if the data set no limit
_STEPS, _TOLERANCE, _LARGEST = 200, 1e-9, 1.0


def fit_logistic(
    terms: np.ndarray, scores: np.ndarray, weights: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """Return the coefficients, float64[s, d], for s weightings, by Newton's method with steps of at most 1.

    Args:
        terms: float64[n, d].
        scores: float64[n] or [s, n], between 0 and 1.
        weights: float64[s, n], not negative.
        start: initial coefficients, float64[d]; default: zeros.
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
