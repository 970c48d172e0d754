"""Position bias of judges: what they say of the same two replies in both orders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psychocounsel.evaluation.statistics.measure import Measure, draws, measure
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts


@dataclass(frozen=True)
class PositionBias:
    """How much the order of two replies changes a judge's verdicts.

    Attributes:
        rows: pairs of replies judged in both orders.
        inconsistent: share of rows whose two verdicts contradict: one reply is better in one order, the other in the other.
        half_consistent: share of rows with a tie in one order alone.
        first_place: share of calls that prefer the reply shown first, ties half; 0.5 without bias.
        shift: log-odds that being shown first adds to a reply; 0 without bias.
        error: chance that a call names the worse reply, of errors that change from call to call; repeated ones are not seen.
    """

    rows: int
    inconsistent: Measure
    half_consistent: Measure
    first_place: Measure
    shift: Measure
    error: Measure


def position_bias(verdicts: Verdicts, samples: int = 1000, seed: int = 0) -> PositionBias:
    """Position bias with intervals over prompts; every row of `verdicts` weighs the same.

    `shift`: if logit P(a is preferred) is t + s with a first and t - s with a second, the rows that prefer the first place
    twice outnumber those that prefer the second twice by exp(2 s), whatever t is. So s = log(first / second) / 2, the
    conditional estimate of a Rasch model (Cox 1958); 1/2 is added to both counts (Haldane 1956).

    `error`: with h and l the chances that the reply shown first is preferred if it is the better and if it is the worse one,
    h l and (1 - h)(1 - l) are the shares of rows that prefer the first, or the second place twice, among rows without a tie.
    These give h and l, and the error is ((1 - h) + l) / 2. It takes calls as independent and all pairs as equally hard.
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
    measures = (measure(value, column) for value, column in zip(found, resampled.T, strict=True))
    return PositionBias(len(forward), *measures)


def _figures(sums: np.ndarray) -> np.ndarray:
    """The five figures, float64[s, 5], of sums over rows, float64[s, 7]."""
    rows, inconsistent, half, first_place, first, second, decided = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = np.where(decided > 0, np.log((first + 0.5) / (second + 0.5)) / 2, np.nan)
        total, product = 1 + (first - second) / decided, first / decided  # h + l and h l
        apart = np.sqrt(np.maximum(0, total**2 - 4 * product))  # h - l
        return np.stack([inconsistent / rows, half / rows, first_place / rows, shift, (1 - apart) / 2], axis=1)


def bias_by_judge(verdicts: Verdicts, samples: int = 1000, seed: int = 0) -> dict[int, PositionBias]:
    """Position bias of each judge, by its number."""
    judges = np.unique(verdicts.judge)
    return {int(judge): position_bias(verdicts.where(verdicts.judge == judge), samples, seed) for judge in judges}
