"""How well rewards tell the better reply of a pair: accuracy, AUC, calibration error, Brier score.

Each pair counts in both orders: (a, b) = (chosen, rejected) with label 1 and (rejected, chosen) with label 0. The
prediction is p = sigmoid(r_a - r_b) of unnormalised rewards. This definition is ours; the paper does not publish its own.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from psychocounsel.metrics.stats import bootstrap

BINS = 10


def pair_metrics(
    chosen: Sequence[float], rejected: Sequence[float], clusters: Sequence[Hashable], samples: int = 1000
) -> dict[str, float]:
    """`accuracy`, `auc`, `ece`, `brier` of n pairs' rewards, each with `_low` and `_high`, its 95 % interval.

    The intervals are by bootstrap over `clusters`, the prompt of each pair; an accuracy or AUC of 0 or 1 has the exact
    binomial interval.

    Raises:
        ValueError: if a margin is NaN, which would have no bin and count as wrong.
    """
    margins = np.asarray(chosen, np.float64) - np.asarray(rejected, np.float64)
    if unknown := np.isnan(margins).sum():
        raise ValueError(f"the margin is NaN for {unknown} of {len(margins)} pairs")
    results: dict[str, float] = {}
    for name, metric in _METRICS.items():
        trials = len({*clusters}) if name in _SHARES else 0
        low, high = bootstrap(lambda rows, metric=metric: metric(margins[rows]), clusters, samples, trials=trials)  # type: ignore[misc]
        results |= {name: metric(margins), f"{name}_low": low, f"{name}_high": high}
    return results


def reward_statistics(scores: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean and standard deviation (of the sample) of all rewards: what normalised rewards are made with."""
    flat = np.concatenate(list(scores)).astype(np.float64)
    return {"reward_mean": float(flat.mean()), "reward_std": float(flat.std(ddof=1))}


def accuracy(margins: np.ndarray) -> float:
    """Share of pairs whose chosen reply has the larger reward; ties count half. `margins`: float[n], r_chosen - r_rejected."""
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def auc(margins: np.ndarray) -> float:
    """Area under the ROC curve over both orders: the chance that a random m is larger than a random -m', ties half."""
    ordered = np.sort(-margins)
    below = np.searchsorted(ordered, margins, "left")
    equal = np.searchsorted(ordered, margins, "right") - below
    return float((below + 0.5 * equal).mean() / len(margins))


def ece(margins: np.ndarray) -> float:
    """Expected calibration error in ten equal-width bins of p (arXiv 1706.04599, eq. 3), over both orders."""
    p, labels = both_orders(margins)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, p - labels, BINS)
    return float(np.abs(gaps).sum() / len(p))


def brier(margins: np.ndarray) -> float:
    """Mean squared difference of p and label; both orders give the same."""
    p, labels = both_orders(margins)
    return float(np.mean((p - labels) ** 2))


def both_orders(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels, float64[2n]; equal margins have equal predictions, hence one bin, in either order."""
    both = np.concatenate([margins, -margins])
    return 0.5 * (1 + np.tanh(both / 2)), np.concatenate([np.ones(len(margins)), np.zeros(len(margins))])


_METRICS = {"accuracy": accuracy, "auc": auc, "ece": ece, "brier": brier}
_SHARES = ("accuracy", "auc")
