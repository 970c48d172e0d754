"""Metrics of rewards: how well they separate chosen from rejected replies, and the win rate of one policy over another."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from psychocounsel.metrics.intervals import TWO_SIDED_LEVEL, bootstrap, mean_interval, numbered

# Metrics of how well rewards separate chosen from rejected replies: accuracy, AUC, calibration error, Brier score.
#
# Each pair counts in both orders: (a, b) = (chosen, rejected) with label 1 and (rejected, chosen) with label 0. The
# prediction is p = sigmoid(r_a - r_b) of unnormalised rewards. This definition is ours, because the paper does not
# publish its own.

BINS = 10
Binning = Callable[[np.ndarray], np.ndarray]  # predictions, float[n] -> their bins, int64[n]


def pair_metrics(
    chosen: Sequence[float], rejected: Sequence[float], clusters: Sequence[Hashable], samples: int = 1000
) -> dict[str, float]:
    """Return `accuracy`, `auc`, `ece` and `brier` of n pairs, each with its 95 % interval (`_low`, `_high`).

    The intervals are by `clusters`: those of means for accuracy and Brier score, by bootstrap for AUC, and
    `calibration_interval` for the calibration error. An accuracy or
    AUC of 0 or 1 has the exact binomial interval.

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
    numbers = numbered(clusters)
    intervals = {
        "accuracy": mean_interval(wins(margins), numbers, shares=True),
        "auc": bootstrap(lambda rows: auc(margins[rows]), clusters, samples, trials=len({*clusters})),
        "ece": calibration_interval(margins, clusters, width_bins, samples),
        "brier": mean_interval(_squared_errors(margins), numbers),
    }
    results: dict[str, float] = {}
    for name, (low, high) in intervals.items():
        results |= {name: METRICS[name](margins), f"{name}_low": low, f"{name}_high": high}
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
    return float(wins(margins).mean())


def wins(margins: np.ndarray) -> np.ndarray:
    """Return 1 for each positive margin, 0 for a negative one, 0.5 for zero and NaN for NaN."""
    return 0.5 + np.sign(margins) / 2


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
    return binned_error(margins, width_bins)


def width_bins(p: np.ndarray) -> np.ndarray:
    """Return the bin of each prediction, int64[n], among ten bins of equal width."""
    return np.minimum((p * BINS).astype(int), BINS - 1)


def binned_error(margins: np.ndarray, binning: Binning) -> float:
    """Return the expected calibration error over both orders of n pairs, in the bins of their predictions."""
    p, labels = both_orders(margins)
    return float(np.abs(np.bincount(binning(p), p - labels, BINS)).sum() / len(p))


def calibration_interval(
    margins: np.ndarray, clusters: Sequence[Hashable], binning: Binning, samples: int
) -> tuple[float, float]:
    """Return the 95 % interval of `binned_error` over clusters.

    Chance alone makes the error of a calibrated model larger than 0, and that of a resample larger still. So the lower end is
    0 if a calibrated model would show an error as large in 2.5 % of the samples: all errors p - label of a cluster get a
    random common sign, because their expectation is 0 (wild bootstrap: Wu 1986). The other ends are those of `bootstrap`.
    """
    low, high = bootstrap(lambda rows: binned_error(margins[rows], binning), clusters, samples)
    p, labels = both_orders(margins)
    number = np.tile(numbered(clusters), 2)
    gaps = np.zeros((int(number.max()) + 1, BINS))
    np.add.at(gaps, (number, binning(p)), p - labels)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (samples, len(gaps)))
    by_chance = np.abs(signs @ gaps).sum(1) / len(p)
    return (0.0 if binned_error(margins, binning) <= np.quantile(by_chance, (1 + TWO_SIDED_LEVEL) / 2) else low), high


def brier(margins: np.ndarray) -> float:
    """Return the Brier score, mean((p - label)^2); both orders of a pair give the same value.

    `margins`: r_chosen - r_rejected, float[n].
    """
    return float(_squared_errors(margins).mean())


def _squared_errors(margins: np.ndarray) -> np.ndarray:
    return (1 - both_orders(margins)[0][: len(margins)]) ** 2


def both_orders(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions p and labels of both orders, float64[2n] each, from margins, float[n].

    p = sigmoid(m) is computed by tanh, so that opposite margins give exactly complementary predictions.
    """
    both = np.concatenate([margins, -margins])
    return 0.5 * (1 + np.tanh(both / 2)), np.concatenate([np.ones(len(margins)), np.zeros(len(margins))])


METRICS = {"accuracy": accuracy, "auc": auc, "ece": ece, "brier": brier}

# Win rate by a reward model: how often the first of two policies has the better reply to the same prompt.


def win_rate(
    mine: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    prompts: Sequence[Hashable],
) -> dict[str, float]:
    """Return `win_rate` of the policy `mine` against `theirs`, with its 95 % interval (`win_rate_low`, `win_rate_high`).

    A prompt's rate is the share of pairs (one reply of each policy) in which mine has the larger reward; a tie counts
    half. The win rate is the mean over prompts, with the interval of a share (`mean_intervals`).

    Args:
        mine: rewards of one or more replies to each of n prompts.
        theirs: the other policy's rewards for the same n prompts.
        prompts: n names of prompts; entries with the same name are one cluster.

    Raises:
        ValueError: if the numbers of prompts differ, an entry has no replies, or a reward is NaN.
    """
    if not len(mine) == len(theirs) == len(prompts):
        raise ValueError(f"rewards for {len(mine)} and {len(theirs)} prompts, of {len(prompts)}")
    rates = np.array([_rate(*map(np.asarray, pair)) for pair in zip(mine, theirs, strict=True)])
    low, high = mean_interval(rates, numbered(prompts), shares=True)
    return {"win_rate": float(rates.mean()), "win_rate_low": low, "win_rate_high": high}


def _rate(mine: np.ndarray, theirs: np.ndarray) -> float:
    differences = mine[:, None] - theirs[None, :]
    if not differences.size or np.isnan(differences).any():
        raise ValueError("a prompt lacks replies, or a reward is NaN")
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))
