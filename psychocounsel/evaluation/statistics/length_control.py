"""Length-controlled win rates by regression, as in AlpacaEval 2; optionally controlled for ending and formatting, too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from psychocounsel.evaluation.statistics.measure import Measure, draws, measure
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts, mean_interval, prompt_means
from psychocounsel.evaluation.statistics.weighted_logistic import fit_logistic
from psychocounsel.evaluation.statistics.win_rates import row_weights


@dataclass(frozen=True)
class Controlled:
    """Win rate of a against b, as if their replies had equal length (and equal ending and formatting, if controlled).

    Attributes:
        win_rate: the fitted probability that a is preferred if all differences are 0.
        effects: log-odds that a difference of 1 adds. For `length`, 1 is the maximum because tanh saturates.
        length_unit: SD of the differences in length, in the unit of the lengths.
    """

    win_rate: Measure
    effects: dict[str, Measure]
    length_unit: float


def length_controlled(
    verdicts: Verdicts, ending: bool = False, formatting: bool = False, samples: int = 1000, seed: int = 0
) -> Controlled:
    """Return the length-controlled win rate of a against b (Dubois et al. 2024, arXiv 2404.04475).

    The model is logit P(a is preferred) = model + length * tanh((length_a - length_b) / SD). The paper's term for the
    difficulty of an instruction is omitted because it needs the verdicts of many models. The score of both orders is a soft
    label, and every prompt has weight 1. Every term has the ridge `weighted_logistic.RIDGE`. The intervals are a bootstrap
    over prompts; every resample uses the SD of all rows. If one side won every row, length explains nothing: the result is
    then the plain win rate with its exact interval, and the effects are NaN.

    Args:
        verdicts: verdicts about one pair of settings.
        ending: also control the difference in "ends with a question" (-1, 0 or 1).
        formatting: also control the difference in "has lists, headings or bold type" (-1, 0 or 1).
        samples: number of resamples.
        seed: seed of the resampling.
    """
    judged = verdicts.judged()
    names = ["model", "length", *(["ending"] if ending else []), *(["formatting"] if formatting else [])]
    scores, weights = judged.scores(), row_weights(judged.prompt)
    if set(scores) <= {0.0} or set(scores) <= {1.0}:  # nothing is judged, or one side won every row
        value = float(scores[0]) if len(scores) else math.nan
        raw = Measure(value, *mean_interval(prompt_means(judged).means, samples, seed))
        return Controlled(raw, dict.fromkeys(names[1:], Measure(math.nan, math.nan, math.nan)), math.nan)
    longer = judged.length_a.astype(float) - judged.length_b
    unit = float(longer.std())
    terms = {"model": np.ones(len(longer)), "length": np.tanh(longer / unit) if unit else np.zeros(len(longer))}
    terms["ending"] = judged.question_a.astype(float) - judged.question_b
    terms["formatting"] = judged.formatted_a.astype(float) - judged.formatted_b
    table = np.stack([terms[name] for name in names], axis=1)
    [fitted] = fit_logistic(table, scores, weights[None, :])
    prompts, rows = np.unique(judged.prompt, return_inverse=True)
    drawn = [
        fit_logistic(table, scores, weights * each[:, rows], fitted) for each in draws(len(prompts), samples, seed)
    ]
    resampled = np.concatenate(drawn)
    effects = {name: measure(fitted[place], resampled[:, place]) for place, name in enumerate(names)}
    del effects["model"]
    return Controlled(measure(float(expit(fitted[0])), expit(resampled[:, 0])), effects, unit)
