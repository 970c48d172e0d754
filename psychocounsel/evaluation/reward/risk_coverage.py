"""Risk-coverage curve: the error rate of a reward model on the pairs of which it is most certain (largest |margin|)."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from psychocounsel.metrics.stats import bootstrap

COVERAGES = (0.5, 0.8, 0.9)
_POINTS = 100


def risks(margins: np.ndarray) -> np.ndarray:
    """Return the error rate on the k pairs with the largest |margin|, for k = 1 to n, float64[n].

    `margins`: float[n], r_chosen - r_rejected. A margin of 0 is half an error. Pairs with equal |margin| have no order, so
    each of them counts with their mean error, which is the expectation over all orders.
    """
    size = np.abs(margins)
    order = np.argsort(-size, kind="stable")
    wrong = ((margins < 0) + 0.5 * (margins == 0))[order]
    _, start, count = np.unique(-size[order], return_index=True, return_counts=True)
    mean = np.repeat(np.add.reduceat(wrong, start) / count, count)
    return np.asarray(np.cumsum(mean) / np.arange(1, len(margins) + 1))


def aurc(margins: np.ndarray) -> float:
    """Return the area under the risk-coverage curve, the mean of `risks` (arXiv 1805.08206); 0 is best."""
    return float(risks(margins).mean())


def accuracy_at(margins: np.ndarray, coverage: float) -> float:
    """Return the accuracy on the `coverage` share of pairs with the largest |margin|; their number is rounded up."""
    return float(1 - risks(margins)[_kept(len(margins), coverage) - 1])


def risk_coverage_curve(margins: np.ndarray) -> list[dict[str, float]]:
    """Return at most 100 points of the curve: `coverage`, its `accuracy`, and `margin`, the smallest |margin| included."""
    found, size = risks(margins), -np.sort(-np.abs(margins))
    kept = sorted({_kept(len(margins), point / _POINTS) for point in range(1, _POINTS + 1)})
    return [
        {"coverage": k / len(margins), "accuracy": float(1 - found[k - 1]), "margin": float(size[k - 1])} for k in kept
    ]


def coverage_figures(margins: np.ndarray, clusters: Sequence[Hashable], samples: int = 1000) -> dict[str, float]:
    """Return `aurc` and `accuracy_at_50`, `_80`, `_90` (per cent of pairs), each with its bootstrap interval over clusters.

    The intervals have the endings `_low` and `_high`.
    """
    metrics: dict[str, Callable[[np.ndarray], float]] = {"aurc": aurc}
    surest, trials = np.argsort(-np.abs(margins), kind="stable"), {"aurc": 0}
    for coverage in COVERAGES:
        name = f"accuracy_at_{round(100 * coverage)}"
        trials[name] = len({clusters[row] for row in surest[: _kept(len(margins), coverage)]})
        metrics[name] = lambda some, coverage=coverage: accuracy_at(some, coverage)  # type: ignore[misc]
    figures = dict[str, float]()
    for name, metric in metrics.items():
        low, high = bootstrap(lambda rows, metric=metric: metric(margins[rows]), clusters, samples, trials=trials[name])  # type: ignore[misc]
        figures |= {name: metric(margins), f"{name}_low": low, f"{name}_high": high}
    return figures


def _kept(count: int, coverage: float) -> int:
    # Rounded first, because 0.8 * 35 is 28.000000000000004.
    return int(np.ceil(round(count * coverage, 9)))
