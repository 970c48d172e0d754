"""Weights of pairs under which cues predict nothing, as near to equal as can be.

A cue's sign for a pair is 1 where the chosen reply has the larger value, -1 where the rejected one has, 0 where they tie.
Among all weights w with mean 1 and 0 <= w <= `largest` under which each cue's weighted signs sum to 0, we take those with the
least sum of (w - 1)^2, hence with the largest effective sample size. This is calibration by the truncated linear method
(Deville and Sarndal 1992, "Calibration estimators in survey sampling").
"""

import numpy as np

_TOLERANCE = 1e-9  # of the weighted mean of a cue's signs
_STEPS = 200
_DIGITS = 6  # another machine's rounding errors lie below these, so that a run may be resumed there


def balanced_weights(signs: np.ndarray, largest: float) -> np.ndarray | None:
    """float64[n] weights for `signs`, int[n, cues]; None where there are none.

    The solution is w = clip(z . theta, 0, largest) with z = (1, signs) and theta, the multipliers, the minimum of a convex
    function, which Newton's method finds. Pairs with the same signs have the same weight, so it works on distinct rows.
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
    """How many pairs of equal weight tell as much (Kish 1965): (sum of w)^2 / sum of w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _line_search(
    theta: np.ndarray, step: np.ndarray, gradient: np.ndarray, z: np.ndarray, share: np.ndarray, largest: float
) -> np.ndarray:
    """`theta` moved along `step` as far as the dual function falls (Armijo's rule)."""
    length, start = 1.0, _dual(theta, z, share, largest)
    start += 1e-14 * (1 + abs(start))  # near the minimum the function falls by less than it is rounded
    while length > 1e-12 and _dual(theta + length * step, z, share, largest) > start + 1e-4 * length * gradient @ step:
        length /= 2
    return np.asarray(theta + length * step)


def _dual(theta: np.ndarray, z: np.ndarray, share: np.ndarray, largest: float) -> float:
    """The function whose gradient is the constraints' error: the integral of clip(u, 0, largest) less the target."""
    u = z @ theta
    inside = np.clip(u, 0.0, largest)
    return float((share * (inside**2 / 2 + largest * np.maximum(u - largest, 0.0))).sum() - theta[0])
