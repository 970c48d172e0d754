"""Win rate by a reward model: how often the first of two policies has the better reply to the same prompt."""

from collections.abc import Hashable, Sequence

import numpy as np

from psychocounsel.metrics.stats import bootstrap


def win_rate(
    mine: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    prompts: Sequence[Hashable],
    samples: int = 1000,
) -> dict[str, float]:
    """Return `win_rate` of the policy `mine` against `theirs`, with its 95 % interval (`win_rate_low`, `win_rate_high`).

    A prompt's rate is the share of pairs (one reply of each policy) in which mine has the larger reward; a tie counts
    half. The win rate is the mean over prompts. The interval comes from a bootstrap over prompts.

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
    low, high = bootstrap(lambda rows: float(rates[rows].mean()), prompts, samples)
    return {"win_rate": float(rates.mean()), "win_rate_low": low, "win_rate_high": high}


def _rate(mine: np.ndarray, theirs: np.ndarray) -> float:
    differences = mine[:, None] - theirs[None, :]
    if not differences.size or np.isnan(differences).any():
        raise ValueError("a prompt lacks replies, or a reward is NaN")
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))
