"""Metrics of rewards: how well they separate chosen from rejected replies, and the win rate of one policy over another."""

from collections.abc import Hashable, Sequence

import numpy as np

from psychocounsel.metrics.intervals import bootstrap

# Metrics of how well rewards separate chosen from rejected replies: accuracy, AUC, calibration error, Brier score.
#
# Each pair counts in both orders: (a, b) = (chosen, rejected) with label 1 and (rejected, chosen) with label 0. The
# prediction is p = sigmoid(r_a - r_b) of unnormalised rewards. This definition is ours, because the paper does not
# publish its own.

BINS = 10


def pair_metrics(
    chosen: Sequence[float], rejected: Sequence[float], clusters: Sequence[Hashable], samples: int = 1000
) -> dict[str, float]:
    """Return `accuracy`, `auc`, `ece` and `brier` of n pairs, each with its 95 % interval (`_low`, `_high`).

    The intervals come from a bootstrap over `clusters`. An accuracy or AUC of 0 or 1 has the exact binomial interval.

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
        trials = len({*clusters}) if name in _SHARES else 0
        low, high = bootstrap(lambda rows, metric=metric: metric(margins[rows]), clusters, samples, trials=trials)  # type: ignore[misc]
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
_SHARES = ("accuracy", "auc")

# Win rate by a reward model: how often the first of two policies has the better reply to the same prompt.


def win_rate(
    mine: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    prompts: Sequence[Hashable],
    samples: int = 1000,
) -> dict[str, float]:
    """Return `win_rate` of the policy `mine` against `theirs`, with its 95 % interval (`win_rate_low`, `win_rate_high`).

    A prompt's rate is the share of pairs (one reply of each policy) in which mine has the larger reward; a tie counts
    half. The win rate is the mean over prompts. The interval comes from a bootstrap over prompts; if all
    prompts are won, or all lost, it is the exact binomial interval.

    Args:
        mine: rewards of one or more replies to each of n prompts.
        theirs: the other policy's rewards for the same n prompts.
        prompts: n names of prompts; entries with the same name are drawn together.
        samples: number of bootstrap samples.

    Raises:
        ValueError: if the numbers of prompts differ, an entry has no replies, or a reward is NaN.
    """
    if not len(mine) == len(theirs) == len(prompts):
        raise ValueError(f"rewards for {len(mine)} and {len(theirs)} prompts, of {len(prompts)}")
    rates = np.array([_rate(*map(np.asarray, pair)) for pair in zip(mine, theirs, strict=True)])
    low, high = bootstrap(lambda rows: float(rates[rows].mean()), prompts, samples, trials=len({*prompts}))
    return {"win_rate": float(rates.mean()), "win_rate_low": low, "win_rate_high": high}


def _rate(mine: np.ndarray, theirs: np.ndarray) -> float:
    differences = mine[:, None] - theirs[None, :]
    if not differences.size or np.isnan(differences).any():
        raise ValueError("a prompt lacks replies, or a reward is NaN")
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))
