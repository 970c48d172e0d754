"""Win rates of one setting against another: overall, over training seeds, and on slices of the prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from psychocounsel.evaluation.statistics.measure import Measure, draws, measure
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts, mean_interval, prompt_means

SMALL = 30  # prompts; with fewer, bootstrap intervals are too narrow
# The five possible scores of two orders together (paired_verdicts.Verdicts.scores).
_SHARES = {"won": 1.0, "partly_won": 0.75, "tied": 0.5, "partly_lost": 0.25, "lost": 0.0}


@dataclass(frozen=True)
class PairFigures:
    """Result of setting `a` against setting `b`.

    Attributes:
        win_rate: mean over prompts of a's mean score, a tie counting half.
        shares: shares of the rows that a won, partly_won, tied, partly_lost and lost; every prompt has weight 1.
        prompts, rows: number of judged prompts and rows.
        unjudged: number of rows without a verdict in one of the orders; no figure uses them.
        small: True if there are fewer than 30 prompts.
    """

    win_rate: Measure
    shares: dict[str, float]
    prompts: int
    rows: int
    unjudged: int
    small: bool


def pair_figures(verdicts: Verdicts, samples: int = 1000, seed: int = 0) -> PairFigures:
    """Return the win rate of a against b with its bootstrap interval over prompts.

    `verdicts` are about one pair of settings (`Verdicts.between`).
    """
    judged = verdicts.judged()
    means = prompt_means(judged).means
    value = float(means.mean()) if len(means) else math.nan
    weights, scores = row_weights(judged.prompt), judged.scores()
    total = weights.sum()
    return PairFigures(
        win_rate=Measure(value, *mean_interval(means, samples, seed)),
        shares={
            name: float(weights[scores == score].sum() / total) if total else math.nan
            for name, score in _SHARES.items()
        },
        prompts=len(means),
        rows=len(scores),
        unjudged=len(verdicts.prompt) - len(scores),
        small=len(means) < SMALL,
    )


def row_weights(prompts: np.ndarray) -> np.ndarray:
    """Return row weights, float64[n], so that every prompt has weight 1: one over the number of its rows."""
    _, rows, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    return 1 / counts[rows]


def slices(verdicts: Verdicts, labels: Mapping[int, str], samples: int = 1000, seed: int = 0) -> dict[str, PairFigures]:
    """Return the figures of each slice. `labels` maps prompts to slices (a topic, ...); other prompts are skipped."""
    named = np.array([labels.get(int(prompt), "") for prompt in verdicts.prompt], dtype=object)
    names = sorted({*named} - {""})
    return {name: pair_figures(verdicts.where(named == name), samples, seed) for name in names}


@dataclass(frozen=True)
class SeedFigures:
    """Win rates over training seeds.

    Attributes:
        mean, sd: mean and sample SD (n - 1) of the win rates of a's seeds; `sd` is NaN for one seed.
        n, opponent_n: number of seeds of a and of b.
        interval: bootstrap interval over seeds and prompts; over prompts only, if both sides have one seed.
        over_seeds: True if `interval` includes the variation between seeds.
        by_seed: win rate of each of a's seeds against all seeds of b.
    """

    mean: float
    sd: float
    n: int
    opponent_n: int
    interval: tuple[float, float]
    over_seeds: bool
    by_seed: dict[int, float]


def seed_figures(verdicts: Verdicts, samples: int = 1000, seed: int = 0) -> SeedFigures:
    """Return mean, SD and interval over training seeds; `verdicts` are about one pair of settings.

    The bootstrap draws seeds of a, seeds of b and prompts independently and with replacement, because all seeds reply to
    the same prompts (pigeonhole bootstrap: Owen 2007, Annals of Applied Statistics 1:386). If replies were only
    compared with replies of the same seed, one draw of seeds serves both a and b.
    """
    judged = verdicts.judged()
    if not len(judged.prompt):
        return SeedFigures(math.nan, math.nan, 0, 0, (math.nan, math.nan), False, {})
    mine = np.unique(judged.seed_a)
    rates = {int(each): float(prompt_means(judged.where(judged.seed_a == each)).means.mean()) for each in mine}
    theirs = len(np.unique(judged.seed_b))
    mean = float(np.mean(list(rates.values())))
    sd = float(np.std(list(rates.values()), ddof=1)) if len(mine) > 1 else math.nan
    if len(mine) == theirs == 1:
        interval = mean_interval(prompt_means(judged).means, samples, seed)
    else:
        found = measure(mean, _two_levels(judged, samples, seed))
        interval = found.low, found.high
    return SeedFigures(mean, sd, len(mine), theirs, interval, len(mine) > 1 or theirs > 1, rates)


def _two_levels(judged: Verdicts, samples: int, seed: int) -> np.ndarray:
    """Return the mean win rates over a's seeds in resamples of seeds and prompts, float64[samples]."""
    # Equal seeds that were paired are drawn together: most independent draws would combine seeds that never met.
    opponents = np.zeros_like(judged.seed_b) if (judged.seed_a == judged.seed_b).all() else judged.seed_b
    numbers = [np.unique(each, return_inverse=True)[1] for each in (judged.prompt, judged.seed_a, opponents)]
    prompts, mine, theirs = (int(each.max()) + 1 for each in numbers)
    cells = np.ravel_multi_index((numbers[1], numbers[0], numbers[2]), (mine, prompts, theirs))
    sums = np.bincount(cells, judged.scores(), mine * prompts * theirs).reshape(-1, theirs)
    counts = np.bincount(cells, minlength=mine * prompts * theirs).reshape(-1, theirs)
    rng, found = np.random.default_rng([seed, 1]), []
    for drawn in draws(prompts, samples, seed):
        of_a = rng.multinomial(mine, np.full(mine, 1 / mine), len(drawn))
        of_b = rng.multinomial(theirs, np.full(theirs, 1 / theirs), len(drawn))
        shape = (len(drawn), mine, prompts)
        held = (of_b @ counts.T).reshape(shape)
        scores = (of_b @ sums.T).reshape(shape) / np.maximum(held, 1)
        weights = drawn[:, None, :] * (held > 0)
        with np.errstate(invalid="ignore"):
            rates = (weights * scores).sum(2) / weights.sum(2)
        found.append(np.where(of_a > 0, of_a * rates, 0).sum(1) / mine)
    return np.concatenate(found)
