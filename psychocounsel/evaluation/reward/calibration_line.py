"""Calibration slope and intercept: the logistic regression of the label on the margin (Cox 1958, Biometrika 45).

With a slope of 1, margins are correct log-odds. Below 1 they are too large, above 1 too small.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def calibration_line(ids: Sequence[str], margins: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Return `calibration_slope` and `calibration_intercept` with their 95 % intervals (`_low`, `_high`).

    Each pair counts once, in the order that a hash of its id selects, because over both orders the intercept would be 0 by
    symmetry. In this random order, the intercept differs from 0 only by chance, so its interval should contain 0. The
    intervals use the normal approximation and a covariance that allows dependent pairs within a cluster (Liang and Zeger
    1986, with the usual correction for few clusters).

    Args:
        ids: ids of the pairs.
        margins: float[n], r_chosen - r_rejected.
        clusters: number of each pair's cluster, int[n].

    Returns:
        The six figures; {} if no finite estimate exists, for example because every pair is right, every pair is wrong,
        all margins are 0, or there is only one cluster.
    """
    names = ("calibration_intercept", "calibration_slope")
    signs = orientation(ids)
    fitted = logistic_fit(signs * margins, (signs > 0).astype(np.float64), clusters)
    if fitted is None:
        return {}
    found: dict[str, float] = {}
    for name, value, error in zip(names, *fitted, strict=True):
        found |= {
            name: float(value),
            f"{name}_low": float(value - _Z * error),
            f"{name}_high": float(value + _Z * error),
        }
    return found


def orientation(ids: Sequence[str]) -> np.ndarray:
    """Return 1 for pairs shown with the chosen reply first, otherwise -1, float64[n], by a bit of the id's SHA-256."""
    return np.array([1.0 if hashlib.sha256(each.encode()).digest()[0] & 1 else -1.0 for each in ids])


def logistic_fit(x: np.ndarray, y: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return intercept and slope by maximum likelihood, float64[2], and their cluster-robust standard errors, float64[2].

    None if the likelihood has no maximum, slope and intercept cannot be separated, or there are fewer than two clusters.
    """
    from scipy.optimize import minimize

    _, cluster = np.unique(clusters, return_inverse=True)
    groups = int(cluster.max()) + 1 if len(x) else 0
    if groups < 2 or _separated(x, y):
        return None
    # Scaled margins, so that the optimizer sees coefficients of one size for margins of any size.
    scale = float(np.abs(x).mean())
    design = np.column_stack([np.ones(len(x)), x / scale])

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ coefficients
        gradient = design.T @ (_sigmoid(logits) - y)
        return float((np.logaddexp(0, logits) - y * logits).mean()), gradient / len(y)

    def information(coefficients: np.ndarray) -> np.ndarray:
        p = _sigmoid(design @ coefficients)
        return np.asarray((design * (p * (1 - p))[:, None]).T @ design)

    def hessian(coefficients: np.ndarray) -> np.ndarray:
        return information(coefficients) / len(y)

    found = minimize(loss, np.zeros(2), jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-10})
    coefficients = found.x
    if np.linalg.cond(information(coefficients)) > 1e12:
        return None
    scores = np.zeros((groups, 2))
    np.add.at(scores, cluster, design * (y - _sigmoid(design @ coefficients))[:, None])
    bread = np.linalg.inv(information(coefficients))
    correction = groups / (groups - 1) * (len(x) - 1) / (len(x) - 2) if len(x) > 2 else 1.0
    errors = np.sqrt(np.diag(bread @ scores.T @ scores @ bread) * correction)
    return coefficients / [1, scale], errors / [1, scale]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))


def _separated(x: np.ndarray, y: np.ndarray) -> bool:
    """Return True if all labels or all x are equal, or a threshold of x separates the labels: no finite slope exists."""
    ones, zeros = x[y == 1], x[y == 0]
    if not len(ones) or not len(zeros) or x.min() == x.max():
        return True
    return bool(ones.min() >= zeros.max() or ones.max() <= zeros.min())
