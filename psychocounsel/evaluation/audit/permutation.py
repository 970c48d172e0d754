"""How good the best of several cues would look if labels were random: the permutation distribution of the maximum."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Maximum:
    """Of the best of several cues: its column, the share of pairs it wins in its better direction, and what chance gives.

    `low`, `high`: the central 95 % of the best cue's share under random labels. `p`: the chance of a share as large
    (Phipson and Smyth 2010: the labels as they are count as one draw).
    """

    column: int
    accuracy: float
    low: float
    high: float
    p: float


def best_cue(signs: np.ndarray, component: np.ndarray, samples: int = 2000, seed: int = 0) -> Maximum:
    """The best cue, and the distribution of the best when labels of whole components are flipped at random.

    `signs`: float[pairs, cues], 1 where the chosen reply has the larger value, -1 where the rejected has, 0 where they are
    equal. A cue's share is that of the pairs that it wins in the direction that wins more, ties as half; taking the maximum
    over cues in each draw allows for the choice of cue and direction (Westfall and Young 1993).
    """
    _, rows = np.unique(component, return_inverse=True)
    count = int(rows.max()) + 1
    sums = np.stack([np.bincount(rows, column, count) for column in signs.T], axis=1)
    observed = np.abs(sums.sum(0)) / len(signs)
    rng, drawn = np.random.default_rng(seed), []
    for start in range(0, samples, 100):  # a part of the draws at a time: components may be many
        flips = 1.0 - 2.0 * rng.integers(0, 2, (min(100, samples - start), count))
        drawn.append(np.abs(flips @ sums).max(1) / len(signs))
    chance = np.concatenate(drawn)
    best = int(observed.argmax())
    p = (1 + (chance >= observed[best] - 1e-12).sum()) / (1 + samples)
    low, high = 0.5 + 0.5 * np.quantile(chance, [0.025, 0.975])
    return Maximum(best, float(0.5 + 0.5 * observed[best]), float(low), float(high), float(p))
