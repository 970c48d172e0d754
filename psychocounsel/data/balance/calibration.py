"""Calibration of pair weights: weights as equal as possible under which cues do not predict the chosen reply.

A cue's sign for a pair is 1 if the chosen reply has the larger value, -1 if the rejected reply has, and 0 for a tie.
Consider all weights w with mean 1 and 0 <= w <= `largest` under which the weighted signs of each cue sum to 0. Among
these we take the weights with the least sum of (w - 1)^2, which have the largest effective sample size. This is
calibration by the truncated linear method (Deville and Sarndal 1992, "Calibration estimators in survey sampling").
"""

import numpy as np

_TOLERANCE = 1e-9  # largest error of the weighted mean of a cue's signs
_STEPS = 200
_DIGITS = 6  # rounding hides differences between machines, so that a run can be resumed on another one


def balanced_weights(signs: np.ndarray, largest: float) -> np.ndarray | None:
    """Return the calibrated weights, float64[n], of pairs with `signs`, int[n, cues]; None if none are found.

    The solution is w = clip(z . theta, 0, largest) with z = (1, signs). The multipliers theta minimise a convex
    function; Newton's method finds them. Pairs with the same signs have the same weight, so the computation uses
    distinct rows.
    """
    rows, where, counts = np.unique(signs, axis=0, return_inverse=True, return_counts=True)
    z, share = np.column_stack([np.ones(len(rows)), rows]), counts / counts.sum()
    target = np.zeros(z.shape[1])
    target[0] = 1.0
    theta = target.copy()
    for _ in range(_STEPS):
        weights = np.clip(z @ theta, 0.0, largest)
        gradient = z.T @ (share * weights) - target
        if np.abs(gradient).max() < _TOLERANCE:
            return np.round(weights, _DIGITS)[where.reshape(-1)]
        free = share * ((z @ theta > 0) & (z @ theta < largest))
        curvature = z.T @ (free[:, None] * z) + 1e-9 * np.eye(len(theta))
        theta = _line_search(theta, -np.linalg.solve(curvature, gradient), gradient, z, share, largest)
    return None


def effective_size(weights: np.ndarray) -> float:
    """Return the effective sample size (sum of w)^2 / sum of w^2 [equally weighted pairs] (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _line_search(
    theta: np.ndarray, step: np.ndarray, gradient: np.ndarray, z: np.ndarray, share: np.ndarray, largest: float
) -> np.ndarray:
    """Return `theta` after a step along `step` that lowers the dual function sufficiently (Armijo's rule)."""
    length, start = 1.0, _dual(theta, z, share, largest)
    start += 1e-14 * (1 + abs(start))  # near the minimum the decrease is smaller than the rounding error
    while length > 1e-12 and _dual(theta + length * step, z, share, largest) > start + 1e-4 * length * gradient @ step:
        length /= 2
    return np.asarray(theta + length * step)


def _dual(theta: np.ndarray, z: np.ndarray, share: np.ndarray, largest: float) -> float:
    """Return the dual function of the calibration; its gradient is the error of the constraints.

    It is the mean over pairs of the integral of clip(t, 0, largest) for t from 0 to u = z . theta, minus theta[0].
    """
    u = z @ theta
    inside = np.clip(u, 0.0, largest)
    return float((share * (inside**2 / 2 + largest * np.maximum(u - largest, 0.0))).sum() - theta[0])
