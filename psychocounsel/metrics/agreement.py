"""Agreement of judges with each other and with experts, and their position bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from psychocounsel.metrics.intervals import Measure, draws, mean_interval, measure, ratio_intervals
from psychocounsel.metrics.win_rates import Verdicts

# Chance-corrected agreement by the formulas of Cohen and Gwet, computed for all resamples at once.


def beyond_chance(observed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return chance-corrected agreement, (observed - chance) / (1 - chance); NaN where chance agreement is 1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def cohen_chance(tables: np.ndarray) -> np.ndarray:
    """Return the chance agreement of Cohen (1960), float[s], from the shares of label pairs, float[s, q, q]."""
    return (tables.sum(2) * tables.sum(1)).sum(1)


def gwet_chance(shares: np.ndarray, agreement: np.ndarray) -> np.ndarray:
    """Return the chance agreement of AC1 or AC2 (Gwet 2008), float[s].

    Args:
        shares: share of each category among all ratings, float[s, q].
        agreement: agreement of each two categories, from 0 to 1, float[q, q]. The identity matrix gives AC1.
    """
    categories = len(agreement)
    return agreement.sum() * (shares * (1 - shares)).sum(1) / (categories * (categories - 1))


# Agreement of two judges, or of a judge and experts, on the same pairs of replies.

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
    first: np.ndarray,
    second: np.ndarray,
    prompts: np.ndarray,
    samples: int = 1000,
    seed: int = 0,
    clients: np.ndarray | None = None,
) -> Agreement:
    """Return the agreement of two arrays of labels, with intervals over clients.

    Rows without the label of one or both raters are skipped. kappa is NaN if both gave every row the same one label.

    Args:
        first, second: labels -1, 0, 1 or NaN, float[n].
        prompts: number of each row's prompt, int[n].
        samples: number of resamples.
        seed: seed of the resampling.
        clients: number of each row's client, int[n]; None: each prompt is of another client.

    Raises:
        ValueError: if a label is another number.
    """
    both = ~np.isnan(first) & ~np.isnan(second)
    clients = (prompts if clients is None else clients)[both]
    first, second, prompts = first[both], second[both], prompts[both]
    if not (np.isin(first, LABELS) & np.isin(second, LABELS)).all():
        raise ValueError("labels must be -1, 0, 1 or NaN")
    names, rows = np.unique(clients, return_inverse=True)
    cells = rows * 9 + ((first + 1) * 3 + second + 1).astype(int)
    counts = np.bincount(cells, minlength=9 * len(names)).reshape(-1, 9)
    [figures] = _agreement_figures(counts.sum(0)[None, :])
    parts = [_agreement_figures(drawn @ counts) for drawn in draws(len(names), samples, seed)]
    resampled = np.concatenate([*parts, np.empty((0, 3))])
    low, high = mean_interval(first == second, rows, shares=True)
    kappa, ac1 = (
        measure(float(value), column, len(names)) for value, column in zip(figures[1:], resampled.T[1:], strict=True)
    )
    return Agreement(len(first), len(np.unique(prompts)), Measure(float(figures[0]), low, high), kappa, ac1)


def _agreement_figures(counts: np.ndarray) -> np.ndarray:
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
    label_of = labels(verdicts)
    sides = np.full((2, int(pair.max()) + 1 if len(pair) else 0), np.nan)
    prompts, clients = np.zeros((2, sides.shape[1]), int)
    for side, number in enumerate((judge, other)):
        rows = verdicts.judge == number
        sides[side, pair[rows]] = label_of[rows]
        prompts[pair[rows]], clients[pair[rows]] = verdicts.prompt[rows], verdicts.client[rows]
    return agreement(sides[0], sides[1], prompts, samples, seed, clients)


# Position bias of judges, measured by their verdicts on the same two replies in both orders.


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


def position_bias(verdicts: Verdicts) -> PositionBias:
    """Return the position bias with intervals over clients. Every row of `verdicts` has the same weight.

    Let `first` be the number of rows in which the judge prefers the first place in both orders, and `second` the number
    of rows in which it prefers the second place in both.

    `shift` is log(first / second) / 2, with 1/2 added to both counts (Haldane 1956). The model behind it is
    logit P(a is preferred) = t + s if a is shown first, and t - s if a is shown second. Then first / second is exp(2 s)
    for any t. This is the conditional estimate of a Rasch model (Cox 1958). Its interval is that of the share first / (first +
    second), as log-odds / 2; it has no end where all these rows prefer the same place.

    `error` is ((1 - h) + l) / 2. Here h is the probability that the better reply is preferred if it is shown first, and
    l the probability that the worse reply is preferred if it is shown first. They follow from two shares of the rows
    without a tie: h l is the share of `first`, and (1 - h)(1 - l) is the share of `second`. The estimate assumes that
    calls are independent and that all pairs are equally hard. Its interval is that of both shares together, with
    their ratio as observed.
    """
    judged_rows = verdicts.judged_rows()
    forward, backward = judged_rows.forward, judged_rows.backward
    decided = (forward != 0) & (backward != 0)
    first, second = decided & (forward > backward), decided & (forward < backward)
    shares = (forward * backward < 0, (forward == 0) != (backward == 0), 0.5 + (forward - backward) / 4)
    every = np.ones(len(forward))
    inconsistent, half, first_place = (_share(share, every, judged_rows.client) for share in shares)
    of_first = _share(first, first | second, judged_rows.client)
    unequal = _share(first | second, decided, judged_rows.client)
    shift = np.log((first.sum() + 0.5) / (second.sum() + 0.5)) / 2 if decided.any() else np.nan
    tilt = 2 * of_first.value - 1 if (first | second).any() else 0.0

    def error(share: float) -> float:
        apart = 1 - 2 * share + (tilt * share) ** 2  # (h - l)^2, from h l and (1 - h)(1 - l)
        return float(1 - np.sqrt(max(0.0, apart))) / 2

    return PositionBias(
        rows=len(forward),
        inconsistent=inconsistent,
        half_consistent=half,
        first_place=first_place,
        shift=Measure(float(shift), float(logit(of_first.low)) / 2, float(logit(of_first.high)) / 2),
        error=Measure(error(unequal.value), error(unequal.low), error(unequal.high)),
    )


def _share(sums: np.ndarray, counts: np.ndarray, clients: np.ndarray) -> Measure:
    """Return the share sum of `sums` / sum of `counts`, both [n], with its interval over clients; NaN without counts."""
    if not np.any(counts):
        return Measure(np.nan, np.nan, np.nan)
    low, high = ratio_intervals(sums[:, None], counts[:, None], clients, np.zeros(1), np.ones(1, bool))[0].tolist()
    return Measure(float(sums.sum() / counts.sum()), low, high)


def bias_by_judge(verdicts: Verdicts) -> dict[int, PositionBias]:
    """Return the position bias of each judge, by the judge's number."""
    judges = np.unique(verdicts.judge)
    return {int(judge): position_bias(verdicts.where(verdicts.judge == judge)) for judge in judges}
