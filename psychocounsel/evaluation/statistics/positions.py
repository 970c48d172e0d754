"""Position bias of judges, measured by their verdicts on the same two replies in both orders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psychocounsel.evaluation.statistics.measure import Measure, draws, measure
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts
from psychocounsel.metrics.stats import mean_intervals


@dataclass(frozen=True)
class PositionBias:
    """Influence of the order of two replies on a judge's verdicts.

    Attributes:
        rows: number of pairs of replies judged in both orders.
        inconsistent: share of rows with contradicting verdicts: each order prefers another reply.
        half_consistent: share of rows with a tie in only one of the orders.
        first_place: share of calls that prefer the reply shown first, a tie counting half; 0.5 without bias.
        shift: log-odds that a reply gains by being shown first; 0 without bias.
        error: probability that a call names the worse reply by a random error. Errors that the judge repeats in both
            orders cannot be detected.
    """

    rows: int
    inconsistent: Measure
    half_consistent: Measure
    first_place: Measure
    shift: Measure
    error: Measure


def position_bias(verdicts: Verdicts, samples: int = 1000, seed: int = 0) -> PositionBias:
    """Return the position bias with intervals by bootstrap over prompts; every row of `verdicts` has the same weight.

    `shift`: let logit P(a is preferred) be t + s if a is shown first and t - s if it is shown second. Some rows prefer the
    first place in both orders, others the second place in both. The ratio of their numbers is exp(2 s) for any t, so
    s = log(first / second) / 2. This is the conditional estimate of a Rasch model (Cox 1958); 1/2 is added to both counts
    (Haldane 1956).

    `error`: let h be the probability that a better reply is preferred when shown first, and l that of a worse reply. Among
    rows without a tie, h l is the share that prefers the first place twice, and (1 - h)(1 - l) the share that prefers the
    second place twice. Both shares determine h and l, and the error is ((1 - h) + l) / 2. The estimate assumes that calls
    are independent and that all pairs are equally hard.
    """
    judged = verdicts.judged()
    forward, backward = judged.forward, judged.backward
    decided = (forward != 0) & (backward != 0)
    columns = [
        np.ones(len(forward)),
        forward * backward < 0,
        (forward == 0) != (backward == 0),
        0.5 + (forward - backward) / 4,
        decided & (forward > backward),  # the first place twice
        decided & (forward < backward),  # the second place twice
        decided,
    ]
    prompts, rows = np.unique(judged.prompt, return_inverse=True)
    sums = np.stack([np.bincount(rows, each, len(prompts)) for each in columns], axis=1)
    parts = [_figures(drawn @ sums) for drawn in draws(len(prompts), samples, seed)]
    [found], resampled = _figures(sums.sum(0)[None, :]), np.concatenate([*parts, np.empty((0, 5))])
    intervals = mean_intervals(np.stack(columns[1:4], axis=1), rows, samples, seed=seed, shares=True)
    shares = (Measure(float(value), *map(float, each)) for value, each in zip(found[:3], intervals, strict=True))
    others = (measure(float(value), column) for value, column in zip(found[3:], resampled.T[3:], strict=True))
    return PositionBias(len(forward), *shares, *others)


def _figures(sums: np.ndarray) -> np.ndarray:
    """Return the five figures, float64[s, 5], from sums over rows, float64[s, 7]."""
    rows, inconsistent, half, first_place, first, second, decided = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = np.where(decided > 0, np.log((first + 0.5) / (second + 0.5)) / 2, np.nan)
        total, product = 1 + (first - second) / decided, first / decided  # h + l and h l
        apart = np.sqrt(np.maximum(0, total**2 - 4 * product))  # h - l
        return np.stack([inconsistent / rows, half / rows, first_place / rows, shift, (1 - apart) / 2], axis=1)


def bias_by_judge(verdicts: Verdicts, samples: int = 1000, seed: int = 0) -> dict[int, PositionBias]:
    """Return the position bias of each judge, by the judge's number."""
    judges = np.unique(verdicts.judge)
    return {int(judge): position_bias(verdicts.where(verdicts.judge == judge), samples, seed) for judge in judges}
