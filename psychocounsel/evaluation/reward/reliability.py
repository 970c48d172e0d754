"""Reliability diagrams: predicted against observed frequency, in bins of equal width and in bins of equal mass.

A pair with the margin m = r_chosen - r_rejected counts in both orders, as in `reward_metrics`: p = sigmoid(m) with label 1 and
1 - p with label 0. The diagrams are therefore symmetric about 0.5, and a bin holds a pair once (twice at p = 0.5).
"""

from typing import Any

import numpy as np

from psychocounsel.metrics.reward_metrics import BINS, both_orders

Figures = dict[str, Any]
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def reliability(margins: np.ndarray) -> Figures:
    """Return the bins of both diagrams, `equal_width` and `equal_mass`, from low to high p. `margins`: float[n].

    A bin has its edges `from` and `to`, `mean_p`, `right` (the share with label 1), `low` and `high` (Wilson's 95 % interval
    of `right`, as if pairs were independent) and `n`. Empty bins are omitted.
    """
    p, labels = both_orders(margins)
    return {
        "equal_width": _bins(p, labels, width_bins(p), np.arange(BINS + 1) / BINS),
        "equal_mass": _bins(p, labels, *mass_bins(p)),
    }


def adaptive_ece(margins: np.ndarray) -> float:
    """Return the expected calibration error in ten bins of equal mass (adaptive calibration error, arXiv 1904.01685).

    Every pair counts in both orders. `margins`: float[n].
    """
    p, labels = both_orders(margins)
    bins, _ = mass_bins(p)
    return float(np.abs(np.bincount(bins, p - labels, BINS)).sum() / len(p))


def width_bins(p: np.ndarray) -> np.ndarray:
    """Return the bin of each prediction, int64[n], among ten bins of equal width (the bins of `reward_metrics.ece`)."""
    return np.minimum((p * BINS).astype(int), BINS - 1)


def mass_bins(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of each prediction, int64[n], and the bins' edges, float64[11], which are the deciles of p.

    Equal predictions share a bin.
    """
    edges = np.quantile(p, np.linspace(0, 1, BINS + 1))
    return np.searchsorted(edges[1:-1], p), edges


def wilson(right: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the 95 % intervals of the shares `right` / `n`, float64[bins, 2] (Wilson 1927)."""
    share, square = right / n, _Z**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _Z * np.sqrt(share * (1 - share) / n + square / (4 * n**2)) / (1 + square / n)
    return np.clip(np.column_stack([middle - half, middle + half]), 0, 1)


def _bins(p: np.ndarray, labels: np.ndarray, bins: np.ndarray, edges: np.ndarray) -> list[Figures]:
    n = np.bincount(bins, minlength=BINS)
    held = np.flatnonzero(n)
    right = np.bincount(bins, labels, BINS)[held]
    columns = np.column_stack(
        [
            *(edges[held], edges[held + 1], np.bincount(bins, p, BINS)[held] / n[held], right / n[held]),
            wilson(right, n[held]),
        ]
    )
    names = ("from", "to", "mean_p", "right", "low", "high")
    return [
        {**dict(zip(names, row, strict=True)), "n": count}
        for row, count in zip(columns.tolist(), n[held].tolist(), strict=True)
    ]
