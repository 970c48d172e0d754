"""Logistic regressions of verdicts: length-controlled win rates, and Bradley-Terry strengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from psychocounsel.metrics.intervals import EQUAL, Measure, draws, measure
from psychocounsel.metrics.win_rates import Verdicts, prompt_means, row_weights

# Logistic regression of scores between 0 and 1, fitted for many weightings of the same rows at once.

RIDGE = 0.01  # normal prior with mean 0 and SD 10 log-odds on each term; it matters only if the data set no limit
_STEPS, _TOLERANCE, _LARGEST = 200, 1e-9, 1.0


def fit_logistic(
    terms: np.ndarray, scores: np.ndarray, weights: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """Return the coefficients, float64[s, d], for s weightings, by Newton's method with steps of at most 1.

    Args:
        terms: float64[n, d].
        scores: float64[n] or [s, n], between 0 and 1.
        weights: float64[s, n], not negative.
        start: initial coefficients, float64[d]; default: zeros.
    """
    coefficients = np.zeros((len(weights), terms.shape[1])) + (0 if start is None else start)
    products = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    square = (len(weights), terms.shape[1], terms.shape[1])
    for _ in range(_STEPS):
        chances = expit(coefficients @ terms.T)
        gradient = (weights * (scores - chances)) @ terms - RIDGE * coefficients
        curvature = ((weights * chances * (1 - chances)) @ products).reshape(square) + RIDGE * np.eye(terms.shape[1])
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        size = np.abs(step).max(initial=0)
        coefficients += step / np.maximum(1, np.abs(step).max(1, keepdims=True) / _LARGEST)
        if size < _TOLERANCE:
            break
    return coefficients


# Length-controlled win rates by regression, as in AlpacaEval 2; optionally controlled for ending and formatting, too.


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
    label, and every prompt has weight 1. Every term has the ridge `RIDGE`. The intervals are a bootstrap
    over clients; every resample uses the SD of all rows. If all prompts have the same score, length explains nothing: the
    result is then the plain win rate with its interval, and the effects are NaN.

    Args:
        verdicts: verdicts about one pair of settings.
        ending: also control the difference in "ends with a question" (-1, 0 or 1).
        formatting: also control the difference in "has lists, headings or bold type" (-1, 0 or 1).
        samples: number of resamples.
        seed: seed of the resampling.
    """
    judged_rows = verdicts.judged_rows()
    names = ["model", "length", *(["ending"] if ending else []), *(["formatting"] if formatting else [])]
    scores, weights = judged_rows.scores(), row_weights(judged_rows.prompt)
    found = prompt_means(judged_rows)
    if not len(found.means) or np.ptp(found.means) < EQUAL:
        raw = Measure(float(found.means[0]) if len(found.means) else math.nan, *found.interval())
        return Controlled(raw, dict.fromkeys(names[1:], Measure(math.nan, math.nan, math.nan)), math.nan)
    longer = judged_rows.length_a.astype(float) - judged_rows.length_b
    unit = float(longer.std())
    terms = {"model": np.ones(len(longer)), "length": np.tanh(longer / unit) if unit else np.zeros(len(longer))}
    terms["ending"] = judged_rows.question_a.astype(float) - judged_rows.question_b
    terms["formatting"] = judged_rows.formatted_a.astype(float) - judged_rows.formatted_b
    table = np.stack([terms[name] for name in names], axis=1)
    [fitted] = fit_logistic(table, scores, weights[None, :])
    clients, rows = np.unique(judged_rows.client, return_inverse=True)
    drawn = [
        fit_logistic(table, scores, weights * multiplicities[:, rows], fitted)
        for multiplicities in draws(len(clients), samples, seed)
    ]
    resampled = np.concatenate(drawn)
    effects = {name: measure(fitted[place], resampled[:, place], len(clients)) for place, name in enumerate(names)}
    del effects["model"]
    return Controlled(measure(float(expit(fitted[0])), expit(resampled[:, 0]), len(clients)), effects, unit)


# Bradley-Terry model (Bradley and Terry 1952): one strength for each of several settings, from their pairwise scores.

_ELO = 400 / math.log(10)  # 400 points are odds of 10 to 1
_MIDDLE = 1000


@dataclass(frozen=True)
class Strength:
    """Strength of one setting.

    Attributes:
        log_odds: log-odds relative to the mean of all settings, which is 0.
        elo: the same on the Elo scale: mean 1000, and 400 points are odds of 10 to 1.
    """

    log_odds: Measure
    elo: Measure


@dataclass(frozen=True)
class Ranking:
    """The strengths of settings.

    Attributes:
        strengths: strength by number of the setting, strongest first; empty unless `groups` has exactly one group.
        groups: groups of settings that are linked by comparisons. Settings of different groups cannot be compared. Empty if no
            pair has a verdict in both orders.
        bounded: True if the verdicts alone determine the strengths. If False, some settings never lost (or never won) a
            point against the others: their order is valid, but the ridge determines their distance.
    """

    strengths: dict[int, Strength]
    groups: list[list[int]]
    bounded: bool


def bradley_terry(verdicts: Verdicts, samples: int = 1000, seed: int = 0) -> Ranking:
    """Return strengths t with logit P(i beats j) = t_i - t_j, and their intervals by bootstrap over clients.

    A tie is half a win for both settings. Each prompt has weight 1 in each pair of settings. The fit is a logistic regression
    with the ridge `RIDGE`. Without a ridge, the estimate is finite only if a chain of points won leads from
    every setting to every other one (Ford 1957); `bounded` is True if this holds.
    """
    judged_rows = verdicts.judged_rows()
    settings, numbers = np.unique(np.concatenate([judged_rows.a, judged_rows.b]), return_inverse=True)
    count, (a, b) = len(settings), numbers.reshape(2, -1)
    upper = np.triu_indices(count, 1)
    pairs = np.zeros((count, count), int)
    pairs[upper] = np.arange(len(upper[0]))
    pair = pairs[np.minimum(a, b), np.maximum(a, b)]
    scores = np.where(a < b, judged_rows.scores(), 1 - judged_rows.scores())  # of the setting with the smaller number
    weights = row_weights(judged_rows.prompt * len(upper[0]) + pair)
    clients, rows = np.unique(judged_rows.client, return_inverse=True)
    shape = len(clients), len(upper[0])
    cells = rows * len(upper[0]) + pair
    sums, played = (
        np.bincount(cells, values, shape[0] * shape[1]).reshape(shape) for values in (weights * scores, weights)
    )

    groups, bounded = _linked(count, upper, sums.sum(0), played.sum(0))
    named = [[int(settings[index]) for index in group] for group in groups]
    if len(groups) != 1:
        return Ranking({}, named, False)
    terms = np.zeros((len(upper[0]), count))
    terms[np.arange(len(upper[0])), upper[0]], terms[np.arange(len(upper[0])), upper[1]] = 1, -1

    def fit(points: np.ndarray, games: np.ndarray) -> np.ndarray:
        return fit_logistic(terms, np.where(games > 0, points / np.maximum(games, 1e-300), 0.5), games)

    [estimates] = fit(sums.sum(0)[None, :], played.sum(0)[None, :])
    parts = [fit(drawn @ sums, drawn @ played) for drawn in draws(len(clients), samples, seed)]
    strengths = {
        int(settings[index]): _strength(estimates[index], np.concatenate(parts)[:, index], len(clients))
        for index in np.argsort(-estimates)
    }
    return Ranking(strengths, named, bounded)


def _linked(
    count: int, upper: tuple[np.ndarray, ...], points: np.ndarray, games: np.ndarray
) -> tuple[list[list[int]], bool]:
    """Return the groups that comparisons link, and True if points won link all settings in both directions."""
    won = np.zeros((count, count))
    won[upper] = points > 1e-9
    won.T[upper] = games - points > 1e-9
    number, group = connected_components(won, directed=True, connection="weak")
    strong, _ = connected_components(won, directed=True, connection="strong")
    return [np.flatnonzero(group == part).tolist() for part in range(number)], strong == 1


def _strength(value: float, resampled: np.ndarray, clients: int) -> Strength:
    return Strength(
        measure(float(value), resampled, clients),
        measure(_MIDDLE + _ELO * float(value), _MIDDLE + _ELO * resampled, clients),
    )
