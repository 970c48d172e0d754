"""Metrics of how well rewards separate chosen from rejected replies: accuracy, AUC, calibration error, Brier score.

Each pair counts in both orders: (a, b) = (chosen, rejected) with label 1 and (rejected, chosen) with label 0. The
prediction is p = sigmoid(r_a - r_b) of unnormalised rewards. This definition is ours, because the paper does not
publish its own.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from psychocounsel.metrics.stats import bootstrap

BINS = 10


def pair_metrics(
    chosen: Sequence[float], rejected: Sequence[float], clusters: Sequence[Hashable], samples: int = 1000
) -> dict[str, float]:
    """Return `accuracy`, `auc`, `ece` and `brier` of n pairs, each with its 95 % interval (`_low`, `_high`).

    The intervals come from a bootstrap over `clusters`.

    Args:
        chosen: n rewards of the chosen replies.
        rejected: n rewards of the rejected replies.
        clusters: n names, for instance the prompt of each pair; pairs of one cluster are drawn together.
        samples: number of bootstrap samples.

    Raises:
        ValueError: if a margin is NaN, because it would fit into no bin and count as wrong.
    """
    margins = np.asarray(chosen, np.float64) - np.asarray(rejected, np.float64)
    if unknown := np.isnan(margins).sum():
        raise ValueError(f"the margin is NaN for {unknown} of {len(margins)} pairs")
    results: dict[str, float] = {}
    for name, metric in _METRICS.items():
        low, high = bootstrap(lambda rows, metric=metric: metric(margins[rows]), clusters, samples)  # type: ignore[misc]
        results |= {name: metric(margins), f"{name}_low": low, f"{name}_high": high}
    return results


def reward_statistics(scores: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean and the sample standard deviation of all rewards; rewards are normalised with these.

    `scores`: float[completions] for each group.
    """
    flat = np.concatenate(list(scores)).astype(np.float64)
    return {"reward_mean": float(flat.mean()), "reward_std": float(flat.std(ddof=1))}


def accuracy(margins: np.ndarray) -> float:
    """Return the share of pairs whose chosen reply has the larger reward; a tie counts half.

    mean([m > 0] + [m = 0] / 2). `margins`: m = r_chosen - r_rejected, float[n].
    """
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def auc(margins: np.ndarray) -> float:
    """Return the area under the ROC curve over both orders: P(m > -m') + P(m = -m') / 2 of two random margins m, m'.

    `margins`: r_chosen - r_rejected, float[n].
    """
    ordered = np.sort(-margins)
    below = np.searchsorted(ordered, margins, "left")
    equal = np.searchsorted(ordered, margins, "right") - below
    return float((below + 0.5 * equal).mean() / len(margins))


def ece(margins: np.ndarray) -> float:
    """Return the expected calibration error in ten bins of p of equal width, over both orders (arXiv 1706.04599, eq. 3).

    Sum over bins of |sum of (p - label)| / (2n). `margins`: r_chosen - r_rejected, float[n].
    """
    p, labels = both_orders(margins)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, p - labels, BINS)
    return float(np.abs(gaps).sum() / len(p))


def brier(margins: np.ndarray) -> float:
    """Return the Brier score, mean((p - label)^2); both orders of a pair give the same value.

    `margins`: r_chosen - r_rejected, float[n].
    """
    p, labels = both_orders(margins)
    return float(np.mean((p - labels) ** 2))


def both_orders(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions p and labels of both orders, float64[2n] each, from margins, float[n].

    p = sigmoid(m) is computed by tanh, so that opposite margins give exactly complementary predictions.
    """
    both = np.concatenate([margins, -margins])
    return 0.5 * (1 + np.tanh(both / 2)), np.concatenate([np.ones(len(margins)), np.zeros(len(margins))])


_METRICS = {"accuracy": accuracy, "auc": auc, "ece": ece, "brier": brier}
