"""Win rates at equal length of the replies, by regression as in AlpacaEval 2, and at equal ending and formatting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from psychocounsel.evaluation.statistics.measure import Measure, draws, measure
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts
from psychocounsel.evaluation.statistics.weighted_logistic import fit_logistic
from psychocounsel.evaluation.statistics.win_rates import row_weights


@dataclass(frozen=True)
class Controlled:
    """Win rate of a against b if their replies were alike in what is controlled.

    Attributes:
        win_rate: the fitted chance that a is preferred where all differences are 0.
        effects: log-odds that a difference of 1 adds. Of `length`, 1 is the largest difference there is: tanh saturates.
        length_unit: SD of the differences in length, in the unit of the lengths.
    """

    win_rate: Measure
    effects: dict[str, Measure]
    length_unit: float


def length_controlled(
    verdicts: Verdicts, ending: bool = False, formatting: bool = False, samples: int = 1000, seed: int = 0
) -> Controlled:
    """The length-controlled win rate of a against b; `verdicts` are of one pair of settings.

    Dubois et al. 2024 (arXiv 2404.04475), eq. 2, without the term of the instruction's difficulty, which needs the verdicts
    of many models: logit P(a is preferred) = model + length * tanh((length_a - length_b) / SD). Scores of both orders are
    soft labels, and every prompt weighs 1. `ending` and `formatting` add the differences of "ends with a question" and of
    "has lists, headings or bold type" (each -1, 0 or 1). The ridge is `weighted_logistic.RIDGE` on every term; the SD is
    that of all rows in every resample of prompts.
    """
    judged = verdicts.judged()
    names = ["model", "length", *(["ending"] if ending else []), *(["formatting"] if formatting else [])]
    if not len(judged.prompt):
        nothing = Measure(math.nan, math.nan, math.nan)
        return Controlled(nothing, dict.fromkeys(names[1:], nothing), math.nan)
    longer = judged.length_a.astype(float) - judged.length_b
    unit = float(longer.std())
    terms = {"model": np.ones(len(longer)), "length": np.tanh(longer / unit) if unit else np.zeros(len(longer))}
    terms["ending"] = judged.question_a.astype(float) - judged.question_b
    terms["formatting"] = judged.formatted_a.astype(float) - judged.formatted_b
    table = np.stack([terms[name] for name in names], axis=1)

    scores, weights = judged.scores(), row_weights(judged.prompt)
    [fitted] = fit_logistic(table, scores, weights[None, :])
    prompts, rows = np.unique(judged.prompt, return_inverse=True)
    drawn = [
        fit_logistic(table, scores, weights * each[:, rows], fitted) for each in draws(len(prompts), samples, seed)
    ]
    resampled = np.concatenate(drawn)
    effects = {name: measure(fitted[place], resampled[:, place]) for place, name in enumerate(names)}
    del effects["model"]
    return Controlled(measure(float(expit(fitted[0])), expit(resampled[:, 0])), effects, unit)
