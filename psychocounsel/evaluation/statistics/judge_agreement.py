"""Agreement of two judges, or of a judge and experts, on the same pairs of replies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psychocounsel.evaluation.statistics.chance_corrected import beyond_chance, cohen_chance, gwet_chance
from psychocounsel.evaluation.statistics.measure import Measure, draws, measure
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts
from psychocounsel.metrics.stats import mean_intervals

LABELS = (-1, 0, 1)


@dataclass(frozen=True)
class Agreement:
    """Agreement of two raters on the rows that both labelled.

    Attributes:
        rows, prompts: number of these rows, and number of their prompts.
        raw: share of rows with equal labels.
        kappa: Cohen's kappa (1960): agreement beyond chance; chance agreement is computed from each rater's label shares.
        ac1: Gwet's AC1 (2008): agreement beyond chance. If one label dominates, kappa is low even with high raw agreement;
            AC1 is not.
    """

    rows: int
    prompts: int
    raw: Measure
    kappa: Measure
    ac1: Measure


def agreement(
    first: np.ndarray, second: np.ndarray, prompts: np.ndarray, samples: int = 1000, seed: int = 0
) -> Agreement:
    """Return the agreement of two arrays of labels, with intervals by bootstrap over prompts.

    Rows without the label of one or both raters are skipped. kappa is NaN if both gave every row the same one label.

    Args:
        first, second: labels -1, 0, 1 or NaN, float[n].
        prompts: number of each row's prompt, int[n].
        samples: number of resamples.
        seed: seed of the resampling.

    Raises:
        ValueError: if a label is another number.
    """
    both = ~np.isnan(first) & ~np.isnan(second)
    first, second, prompts = first[both], second[both], prompts[both]
    if not (np.isin(first, LABELS) & np.isin(second, LABELS)).all():
        raise ValueError("labels must be -1, 0, 1 or NaN")
    names, rows = np.unique(prompts, return_inverse=True)
    cells = rows * 9 + ((first + 1) * 3 + second + 1).astype(int)
    counts = np.bincount(cells, minlength=9 * len(names)).reshape(-1, 9)
    [found] = _figures(counts.sum(0)[None, :])
    parts = [_figures(drawn @ counts) for drawn in draws(len(names), samples, seed)]
    resampled = np.concatenate([*parts, np.empty((0, 3))])
    low, high = mean_intervals((first == second)[:, None], rows, samples, seed=seed, shares=True)[0]
    kappa, ac1 = (measure(float(value), column) for value, column in zip(found[1:], resampled.T[1:], strict=True))
    return Agreement(len(first), len(names), Measure(float(found[0]), float(low), float(high)), kappa, ac1)


def _figures(counts: np.ndarray) -> np.ndarray:
    """Return raw agreement, kappa and AC1, float64[s, 3], from the counts of label pairs, int[s, 9]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (counts / counts.sum(1, keepdims=True)).reshape(-1, 3, 3)
    raw = shares.trace(axis1=1, axis2=2)
    prevalence = (shares.sum(2) + shares.sum(1)) / 2
    chances = (cohen_chance(shares), gwet_chance(prevalence, np.eye(len(LABELS))))
    return np.stack([raw, *(beyond_chance(raw, chance) for chance in chances)], axis=1)


def labels(verdicts: Verdicts) -> np.ndarray:
    """Return the label of each row, float64[n]: 1, 0 or -1 for a score of a above, at or below 1/2; NaN if unjudged."""
    return np.sign(verdicts.scores() - 0.5)


def judges_agreement(verdicts: Verdicts, judge: int, other: int, samples: int = 1000, seed: int = 0) -> Agreement:
    """Return the agreement of two judges on the pairs of replies that both judged.

    A pair is identified by its prompt, sample, settings a and b, and both seeds.
    """
    keys = np.stack([getattr(verdicts, name) for name in ("prompt", "sample", "a", "b", "seed_a", "seed_b")], axis=1)
    _, pair = np.unique(keys, axis=0, return_inverse=True)
    found = labels(verdicts)
    sides = np.full((2, int(pair.max()) + 1 if len(pair) else 0), np.nan)
    prompts = np.zeros(sides.shape[1], int)
    for side, number in enumerate((judge, other)):
        rows = verdicts.judge == number
        sides[side, pair[rows]] = found[rows]
        prompts[pair[rows]] = verdicts.prompt[rows]
    return agreement(sides[0], sides[1], prompts, samples, seed)
