"""Win rates from verdicts about pairs of replies, each judged in both orders, with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from psychocounsel.metrics.intervals import Measure, crossed_interval, mean_interval

# Verdicts about pairs of replies, each judged in both orders, and the score of both orders together.


@dataclass(frozen=True)
class Verdicts:
    """Verdicts of judges about n pairs of replies; all arrays have the shape [n].

    Attributes:
        prompt: number of the client's speech.
        client: number of the client; the turns of one session are speeches of one client. Intervals and tests are over clients.
        sample: number of the sample: each setting may reply several times to one speech.
        a, b: numbers of the two settings that replied.
        seed_a, seed_b: the training seed of each setting.
        judge: number of the judge.
        forward, backward: the verdicts with a's reply shown first, and shown second: 1 a is better, 0 tie, -1 b is better,
            NaN no verdict. For a judge that does not see the order, both are equal.
        length_a, length_b: lengths of the replies, in one unit.
        question_a, question_b: True if the reply ends with a question.
        formatted_a, formatted_b: True if the reply has lists, headings or bold type.
    """

    prompt: np.ndarray
    client: np.ndarray
    sample: np.ndarray
    a: np.ndarray
    b: np.ndarray
    seed_a: np.ndarray
    seed_b: np.ndarray
    judge: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    length_a: np.ndarray
    length_b: np.ndarray
    question_a: np.ndarray
    question_b: np.ndarray
    formatted_a: np.ndarray
    formatted_b: np.ndarray

    def __post_init__(self) -> None:
        shapes = {field.name: np.shape(getattr(self, field.name)) for field in fields(self)}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"the arrays of verdicts must have one length: {shapes}")
        for name in ("forward", "backward"):
            known = getattr(self, name)[~np.isnan(getattr(self, name))]
            if not np.isin(known, (-1, 0, 1)).all():
                raise ValueError(f"{name}: verdicts must be -1, 0, 1 or NaN")
        if (self.a == self.b).any():
            raise ValueError("a setting was compared with itself")

    def where(self, rows: np.ndarray) -> Verdicts:
        """Return the rows that a mask (bool[n]) or an array of row numbers selects."""
        return Verdicts(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def turned(self) -> Verdicts:
        """Return the same verdicts with a and b exchanged."""
        sides = ("", "seed_", "length_", "question_", "formatted_")
        swapped = {f"{side}a": getattr(self, f"{side}b") for side in sides}
        swapped |= {f"{side}b": getattr(self, f"{side}a") for side in sides}
        return replace(self, **swapped, forward=-self.backward, backward=-self.forward)

    def between(self, first: int, second: int) -> Verdicts:
        """Return the verdicts about settings `first` and `second`, with `first` as a in every row."""
        ahead = self.where((self.a == first) & (self.b == second))
        behind = self.where((self.a == second) & (self.b == first)).turned()
        return Verdicts(
            **{
                field.name: np.concatenate([getattr(ahead, field.name), getattr(behind, field.name)])
                for field in fields(self)
            }
        )

    def judged_rows(self) -> Verdicts:
        """Return the rows with a verdict in both orders, because one order alone would count position bias as a verdict."""
        return self.where(~np.isnan(self.forward) & ~np.isnan(self.backward))

    def scores(self) -> np.ndarray:
        """Return a's score in each row [0 to 1]: the mean over both orders, with 1 for a win, 1/2 for a tie, 0 for a loss.

        Contradicting verdicts are therefore a tie (Zheng et al. 2023, arXiv 2306.05685), and a win in one order with a tie
        in the other is 3/4 (mean of both orders: Wang et al. 2023, arXiv 2305.17926). NaN if an order is missing.
        """
        return 0.5 + (self.forward + self.backward) / 4


@dataclass(frozen=True)
class PromptMeans:
    """Mean score of a on each prompt.

    Attributes:
        prompts: numbers of the prompts, int[m], in rising order.
        clients: number of each prompt's client, int[m].
        means: a's mean score over the rows of each prompt, float64[m].
    """

    prompts: np.ndarray
    clients: np.ndarray
    means: np.ndarray

    def interval(self) -> tuple[float, float]:
        """Return the interval of the mean of `means` over clients; see `mean_interval`."""
        return mean_interval(self.means, self.clients, shares=True)


def prompt_means(verdicts: Verdicts) -> PromptMeans:
    """Return a's mean score on each prompt that has verdicts in both orders, over its samples, seeds and judges."""
    judged_rows = verdicts.judged_rows()
    prompts, first, rows = np.unique(judged_rows.prompt, return_index=True, return_inverse=True)
    means = np.bincount(rows, judged_rows.scores(), len(prompts)) / np.bincount(rows, minlength=len(prompts))
    return PromptMeans(prompts, judged_rows.client[first], means)


# Win rates of one setting against another: overall, over training seeds, and on slices of the prompts.

SMALL = 30  # clients; fewer hardly stand for others
# Notes of tables and conclusions.
FEW_CLIENTS = f"fewer than {SMALL} clients: too few to stand for others"
BY_CLIENT = "intervals are computed over clients"

# The five possible scores of two orders together (`Verdicts.scores`).
_SHARES = {"won": 1.0, "partly_won": 0.75, "tied": 0.5, "partly_lost": 0.25, "lost": 0.0}


@dataclass(frozen=True)
class PairFigures:
    """Result of setting `a` against setting `b`.

    Attributes:
        win_rate: mean over prompts of a's mean score, a tie counting half.
        shares: shares of the rows that a won, partly_won, tied, partly_lost and lost; every prompt has weight 1.
        prompts, rows: number of judged prompts and rows.
        unjudged: number of rows without a verdict in one of the orders; no figure uses them.
        small: True if there are fewer than 30 clients.
    """

    win_rate: Measure
    shares: dict[str, float]
    prompts: int
    rows: int
    unjudged: int
    small: bool


def pair_figures(verdicts: Verdicts) -> PairFigures:
    """Return the win rate of a against b with its interval over clients.

    `verdicts` are about one pair of settings (`Verdicts.between`).
    """
    judged_rows = verdicts.judged_rows()
    found = prompt_means(judged_rows)
    value = float(found.means.mean()) if len(found.means) else math.nan
    weights, scores = row_weights(judged_rows.prompt), judged_rows.scores()
    total = weights.sum()
    return PairFigures(
        win_rate=Measure(value, *found.interval()),
        shares={
            name: float(weights[scores == score].sum() / total) if total else math.nan
            for name, score in _SHARES.items()
        },
        prompts=len(found.prompts),
        rows=len(scores),
        unjudged=len(verdicts.prompt) - len(scores),
        small=len({*found.clients.tolist()}) < SMALL,
    )


def row_weights(prompts: np.ndarray) -> np.ndarray:
    """Return row weights, float64[n], so that every prompt has weight 1: one over the number of its rows."""
    _, rows, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    return 1 / counts[rows]


def slices(verdicts: Verdicts, labels: Mapping[int, str]) -> dict[str, PairFigures]:
    """Return the figures of each slice. `labels` maps prompts to slices (a topic, ...); other prompts are skipped."""
    named = np.array([labels.get(int(prompt), "") for prompt in verdicts.prompt], dtype=object)
    names = sorted({*named} - {""})
    return {name: pair_figures(verdicts.where(named == name)) for name in names}


@dataclass(frozen=True)
class SeedFigures:
    """Win rates over training seeds.

    Attributes:
        mean, sd: mean and sample SD (n - 1) of the win rates of a's seeds; `sd` is NaN for one seed.
        n, opponent_n: number of seeds of a and of b.
        interval: 95 % interval over seeds and clients; over clients only, if both sides have one seed.
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


def seed_figures(verdicts: Verdicts) -> SeedFigures:
    """Return mean, SD and interval over training seeds; `verdicts` are about one pair of settings.

    The interval is `crossed_interval` over seeds of a, seeds of b and clients, because all seeds reply to the same prompts. If
    replies were only compared with replies of the same seed, the seeds of a and b are one level.
    """
    judged_rows = verdicts.judged_rows()
    if not len(judged_rows.prompt):
        return SeedFigures(math.nan, math.nan, 0, 0, (math.nan, math.nan), False, {})
    mine = np.unique(judged_rows.seed_a)
    rates = {
        int(own_seed): float(prompt_means(judged_rows.where(judged_rows.seed_a == own_seed)).means.mean())
        for own_seed in mine
    }
    theirs = len(np.unique(judged_rows.seed_b))
    mean = float(np.mean(list(rates.values())))
    sd = float(np.std(list(rates.values()), ddof=1)) if len(mine) > 1 else math.nan
    one = len(mine) == theirs == 1
    interval = prompt_means(judged_rows).interval() if one else _over_seeds(judged_rows)
    return SeedFigures(mean, sd, len(mine), theirs, interval, len(mine) > 1 or theirs > 1, rates)


def _over_seeds(judged_rows: Verdicts) -> tuple[float, float]:
    """Return the interval of the mean over a's seeds of their win rates, over seeds and clients."""
    # Equal seeds that were paired are one level.
    paired = (judged_rows.seed_a == judged_rows.seed_b).all()
    levels = [judged_rows.client, judged_rows.seed_a, *([] if paired else [judged_rows.seed_b])]
    _, mine = np.unique(judged_rows.seed_a, return_inverse=True)
    cells, row_cells = np.unique(np.stack([mine, judged_rows.prompt]), axis=1, return_inverse=True)
    row_cells = row_cells.ravel()
    prompts = np.bincount(cells[0])  # of each seed
    weights = 1 / (len(prompts) * prompts[mine] * np.bincount(row_cells)[row_cells])
    return crossed_interval(judged_rows.scores(), weights, levels)


# The sign-flip test asks whether a win rate is 1/2. Its units are clients; p-values are adjusted for the comparisons of a table.

_EXACT = 14  # clients that are not ties; 2^14 = 16,384 patterns of signs
_FLIPS = 10_000


@dataclass(frozen=True)
class Tested:
    """Two-sided p-values of one comparison: `raw`, and `adjusted` by Holm's method (1979) for all of its table."""

    raw: float
    adjusted: float


def cluster_scores(deviations: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return one score from 0 to 1 for each cluster, as `sign_flip` needs it.

    A score is 1/2 plus the sum of the cluster's deviations, divided by the size of the largest cluster.

    `deviations`: float[n], from -1/2 to 1/2. `clusters`: int[n].
    """
    _, group, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return 0.5 + np.bincount(group, deviations) / sizes.max(initial=1)


def sign_flip(means: np.ndarray, seed: int = 0) -> float:
    """Return the two-sided p-value of "a and b are equally good", from a's score on each client, float64[m], 0 to 1.

    If a and b are equally good, the deviation of a client, score - 1/2, has either sign with the same probability. The test
    compares the sum of the deviations with sums under flipped signs (Fisher's randomisation test). With at most 14 deviating
    clients, all patterns of signs are used. Otherwise 10,000 random patterns are used, and the p-value is
    (1 + larger) / (1 + 10,000) (Phipson and Smyth 2010). NaN without clients.
    """
    if not len(means):
        return math.nan
    apart = means[means != 0.5] - 0.5
    observed = abs(apart.sum()) * (1 - 1e-9)  # equal sums may differ by rounding
    if len(apart) <= _EXACT:
        signs = (np.arange(2 ** len(apart))[:, None] >> np.arange(len(apart))) % 2 * 2 - 1
        return float(np.mean(np.abs(signs @ apart) >= observed))
    rng, larger = np.random.default_rng(seed), 0
    for _ in range(0, _FLIPS, 500):
        flipped = rng.integers(0, 2, (500, len(apart)), dtype=np.int8) @ apart * 2 - apart.sum()
        larger += int(np.sum(np.abs(flipped) >= observed))
    return (1 + larger) / (1 + _FLIPS)


def holm(values: np.ndarray) -> np.ndarray:
    """Return p-values adjusted by Holm's step-down method (1979), float64[k]; NaN stays NaN and is not counted."""
    adjusted = np.full(len(values), np.nan)
    order = np.argsort(values)[: int(np.sum(~np.isnan(values)))]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors)) if len(order) else []
    return adjusted


def adjusted_tests(comparisons: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, Tested]:
    """Return both p-values of every comparison of a table; `comparisons` holds the scores of clients by name."""
    raw = np.array([sign_flip(means, seed) for means in comparisons.values()])
    pairs = zip(comparisons, raw, holm(raw), strict=True)
    return {name: Tested(float(value), float(adjusted)) for name, value, adjusted in pairs}
