"""Calibration slope and intercept: the logistic regression of the label on the margin (Cox 1958, Biometrika 45).

A slope of 1 says that margins mean what they say as log-odds, below 1 that they are too large, above 1 too small.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def calibration_line(ids: Sequence[str], margins: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """`calibration_slope` and `calibration_intercept` with 95 % intervals (`_low`, `_high`).

    Each pair counts once, in an order that a hash of its id decides: over both orders the intercept would be 0 by symmetry.
    So the intercept tells chance alone, and its interval should hold 0. Intervals are of normal theory, with a covariance
    that allows pairs of one cluster to depend on each other (Liang and Zeger 1986, with the usual correction for few clusters).

    Args:
        ids: of the pairs.
        margins: float[n], r_chosen - r_rejected.
        clusters: int[n].

    Returns:
        The six figures, or {} where there is no finite estimate: no pair is wrong, none is right, all margins are
        0, or there is one cluster.
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
    """1 where the chosen reply of a pair stands first, else -1; float64[n], by the first bit of the id's sha256."""
    return np.array([1.0 if hashlib.sha256(each.encode()).digest()[0] & 1 else -1.0 for each in ids])


def logistic_fit(x: np.ndarray, y: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Intercept and slope of maximum likelihood, float64[2], and their standard errors, robust to clusters, float64[2].

    None where the likelihood has no maximum, the slope cannot be told from the intercept, or there is one cluster.
    """
    from scipy.optimize import minimize

    _, cluster = np.unique(clusters, return_inverse=True)
    groups = int(cluster.max()) + 1 if len(x) else 0
    if groups < 2 or _separated(x, y):
        return None
    # Margins of any size get coefficients of the same size.
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
    """Whether some threshold of x parts the labels, so that no slope is steep enough, or all labels are equal."""
    ones, zeros = x[y == 1], x[y == 0]
    if not len(ones) or not len(zeros) or x.min() == x.max():
        return True
    return bool(ones.min() >= zeros.max() or ones.max() <= zeros.min())
