"""Permutation test of the best single cue: the distribution of the best cue's accuracy under random labels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Maximum:
    """The best of several cues, compared with random labels.

    Attributes:
        column: column of the best cue.
        accuracy: share of pairs that it wins in its better direction.
        low: 2.5 % quantile of the best cue's accuracy under random labels.
        high: 97.5 % quantile of the same.
        p: probability of an accuracy at least as large under random labels. The observed labels count as one draw
            (Phipson and Smyth 2010).
    """

    column: int
    accuracy: float
    low: float
    high: float
    p: float


def best_cue(signs: np.ndarray, component: np.ndarray, samples: int = 2000, seed: int = 0) -> Maximum:
    """Return the best cue, and the best accuracy's distribution if labels of whole components are flipped at random.

    `signs`: float[pairs, cues], 1 if the chosen reply has the larger value, -1 if the rejected one has, 0 for a tie. A
    cue's accuracy is the share of pairs that it wins in its better direction; ties count half. Each draw takes the maximum
    over all cues, which corrects for having chosen the cue and its direction (Westfall and Young 1993).
    """
    _, rows = np.unique(component, return_inverse=True)
    count = int(rows.max()) + 1
    sums = np.stack([np.bincount(rows, column, count) for column in signs.T], axis=1)
    observed = np.abs(sums.sum(0)) / len(signs)
    rng, drawn = np.random.default_rng(seed), []
    for start in range(0, samples, 100):  # 100 draws at a time, to limit memory with many components
        flips = 1.0 - 2.0 * rng.integers(0, 2, (min(100, samples - start), count))
        drawn.append(np.abs(flips @ sums).max(1) / len(signs))
    chance = np.concatenate(drawn)
    best = int(observed.argmax())
    p = (1 + (chance >= observed[best] - 1e-12).sum()) / (1 + samples)
    low, high = 0.5 + 0.5 * np.quantile(chance, [0.025, 0.975])
    return Maximum(best, float(0.5 + 0.5 * observed[best]), float(low), float(high), float(p))
