"""Bradley-Terry model (Bradley and Terry 1952): one strength for each of several settings, from their pairwise scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

from psychocounsel.evaluation.statistics.measure import Measure, draws, measure
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts
from psychocounsel.evaluation.statistics.weighted_logistic import fit_logistic
from psychocounsel.evaluation.statistics.win_rates import row_weights

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
    """Return strengths t with logit P(i beats j) = t_i - t_j, and their intervals by bootstrap over prompts.

    A tie is half a win for both settings. Each prompt has weight 1 in each pair of settings. The fit is a logistic regression
    with the ridge `weighted_logistic.RIDGE`. Without a ridge, the estimate is finite only if a chain of points won leads from
    every setting to every other one (Ford 1957); `bounded` is True if this holds.
    """
    judged = verdicts.judged()
    settings, numbers = np.unique(np.concatenate([judged.a, judged.b]), return_inverse=True)
    count, (a, b) = len(settings), numbers.reshape(2, -1)
    upper = np.triu_indices(count, 1)
    pairs = np.zeros((count, count), int)
    pairs[upper] = np.arange(len(upper[0]))
    pair = pairs[np.minimum(a, b), np.maximum(a, b)]
    scores = np.where(a < b, judged.scores(), 1 - judged.scores())  # of the setting with the smaller number
    prompts, rows = np.unique(judged.prompt, return_inverse=True)
    cells, size = rows * len(upper[0]) + pair, len(prompts) * len(upper[0])
    weights = row_weights(cells)
    shape = len(prompts), len(upper[0])
    sums, played = (np.bincount(cells, each, size).reshape(shape) for each in (weights * scores, weights))

    groups, bounded = _linked(count, upper, sums.sum(0), played.sum(0))
    named = [[int(settings[each]) for each in group] for group in groups]
    if len(groups) != 1:
        return Ranking({}, named, False)
    terms = np.zeros((len(upper[0]), count))
    terms[np.arange(len(upper[0])), upper[0]], terms[np.arange(len(upper[0])), upper[1]] = 1, -1

    def fit(points: np.ndarray, games: np.ndarray) -> np.ndarray:
        return fit_logistic(terms, np.where(games > 0, points / np.maximum(games, 1e-300), 0.5), games)

    [found] = fit(sums.sum(0)[None, :], played.sum(0)[None, :])
    parts = [fit(drawn @ sums, drawn @ played) for drawn in draws(len(prompts), samples, seed)]
    strengths = {
        int(settings[each]): _strength(found[each], np.concatenate(parts)[:, each]) for each in np.argsort(-found)
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
    return [np.flatnonzero(group == each).tolist() for each in range(number)], strong == 1


def _strength(value: float, resampled: np.ndarray) -> Strength:
    return Strength(
        measure(float(value), resampled), measure(_MIDDLE + _ELO * float(value), _MIDDLE + _ELO * resampled)
    )
