"""Means of the health figures over prompts, paired differences of two contestants, and comparison with limits."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

import numpy as np

from psychocounsel.evaluation.health.reply import FIGURES, HIGHER, LIMITS, NEITHER, Figure, Health
from psychocounsel.metrics.intervals import EQUAL, difference_lower, difference_upper, mean_interval, numbered

ByPrompt = Mapping[Hashable, Sequence[Health]]  # the figures of all replies to each prompt
Clients = Mapping[Any, Hashable]  # the client of each prompt; those of missing prompts differ
BETTER, WORSE, UNCLEAR, DIFFERS = "better", "worse", "unclear", "differs"
KEPT, EXCEEDED, UNDECIDED = "kept", "exceeded", "undecided"
_SIDE = 0.975  # level of each one-sided bound of a 95 % interval


# Figures as figures.json holds them. `low` and `high` are the ends of a 95 % interval; None: unknown.


class MeanFigure(TypedDict):
    """Mean of a figure over `prompts`, from `replies` for which it is known; `clients` if some have several prompts."""

    mean: float | None
    low: float | None
    high: float | None
    prompts: int
    replies: int
    clients: NotRequired[int]


class PairedDifference(TypedDict):
    """Means of two contestants over the same prompts, and the difference `mine` - `base` with its interval."""

    mine: float | None
    base: float | None
    difference: float | None
    low: float | None
    high: float | None
    prompts: int
    verdict: str


class LimitCheck(TypedDict):
    """Comparison of the figure `name` with its limit; `verdict` is KEPT, EXCEEDED or UNDECIDED."""

    name: str
    limit: float
    mean: float | None
    low: float | None
    high: float | None
    verdict: str


class SeedSpread(TypedDict):
    """Mean and standard deviation (n - 1 in the denominator) of the means of `n` seeds."""

    n: int
    mean: float
    sd: float


class ContestantHealth(TypedDict):
    """Health of a contestant's replies; `outcomes` counts all its calls, `seeds` is empty for fewer than two seeds."""

    replies: int
    prompts: int
    outcomes: dict[str, int]
    figures: dict[str, MeanFigure]
    limits: list[LimitCheck]
    seeds: dict[str, SeedSpread]


class HealthVariant(TypedDict):
    """Health under one length limit [words]: `settings` by contestant, `against` by the other contestant and figure."""

    length_limit: int | None
    settings: dict[str, ContestantHealth]
    against: dict[str, dict[str, PairedDifference]]


class HealthFigures(TypedDict):
    """figures.json of `evaluation=health`; `model` is the contestant that `against` compares with the others."""

    evaluation: str
    model: str
    variants: list[HealthVariant]
    warnings: list[str]


# Means, differences and limits


_APART: Clients = MappingProxyType({})


def means(
    replies: ByPrompt, figures: Mapping[str, Figure] = FIGURES, clients: Clients = _APART
) -> dict[str, MeanFigure]:
    """Return the mean of each figure over prompts, with its 95 % interval over clients.

    A prompt's value is the mean over those of its replies for which the figure is known; prompts without such a reply are
    skipped. `mean` is None if no prompt is left; `low` and `high` are None for fewer than two clients.
    """
    averages: dict[str, MeanFigure] = {}
    for name, figure in figures.items():
        values = _by_prompt(replies, name)
        clusters = _clusters(values, clients)
        mean, low, high = _interval(np.array(list(values.values())), clusters, figure.share)
        known = sum(health[name] is not None for healths in replies.values() for health in healths)
        averages[name] = {"mean": mean, "low": low, "high": high, "prompts": len(values), "replies": known}
        if (count := len({*clusters.tolist()})) < len(values):
            averages[name]["clients"] = count
    return averages


def compare(
    mine: ByPrompt, base: ByPrompt, figures: Mapping[str, Figure] = FIGURES, clients: Clients = _APART
) -> dict[str, PairedDifference]:
    """Compare `mine` with `base` on each figure, over the prompts for which both are known.

    The verdict is `unclear` if the interval includes 0; otherwise `better` or
    `worse`, or `differs` for a figure without a better direction. Intervals are 95 % intervals over
    clients, without a correction for the number of figures. If all clients have the same difference of a share, the interval
    would have no width; the interval then has the bounds of paired shares (`difference_upper`), 97.5 % each. Other figures
    have no interval if all differences are 0.
    """
    differences: dict[str, PairedDifference] = {}
    for name, figure in figures.items():
        sides = [_by_prompt(replies, name) for replies in (mine, base)]
        shared = [prompt for prompt in sides[0] if prompt in sides[1]]
        own, other = (np.array([side[prompt] for prompt in shared]) for side in sides)
        change, clusters = own - other, _clusters(shared, clients)
        difference, low, high = _interval(change, clusters)
        by_client = np.bincount(clusters, change) / np.bincount(clusters)
        if difference is not None and low is not None and np.ptp(by_client) < EQUAL:
            if figure.share:
                low, high = _paired_bounds(difference, len(by_client))
            elif abs(difference) < EQUAL:
                low = high = None
        differences[name] = PairedDifference(
            mine=float(own.mean()) if shared else None,
            base=float(other.mean()) if shared else None,
            difference=difference,
            low=low,
            high=high,
            prompts=len(shared),
            verdict=_verdict(figure.better, low, high),
        )
    return differences


def beyond(figures: Mapping[str, MeanFigure]) -> list[LimitCheck]:
    """Compare the result of `means` with each of LIMITS.

    The verdict is `kept` if the whole interval is at or below the limit, `exceeded` if all of it is above, and otherwise,
    or without an interval, `undecided`.
    """
    rows = list[LimitCheck]()
    for name, limit in LIMITS.items():
        mean, low, high = (figures[name][key] for key in ("mean", "low", "high"))
        verdict = UNDECIDED
        if low is not None and high is not None:
            verdict = KEPT if high <= limit else EXCEEDED if low > limit else UNDECIDED
        rows.append({"name": name, "limit": limit, "mean": mean, "low": low, "high": high, "verdict": verdict})
    return rows


def _by_prompt(replies: ByPrompt, name: str) -> dict[Hashable, float]:
    known = {
        prompt: [value for health in healths if (value := health[name]) is not None]
        for prompt, healths in replies.items()
    }
    return {prompt: sum(values) / len(values) for prompt, values in known.items() if values}


def _clusters(prompts: Iterable[Hashable], clients: Clients) -> np.ndarray:
    """Return the number of each prompt's client, int64[prompts]."""
    return numbered([clients.get(prompt, prompt) for prompt in prompts])


def _interval(
    values: np.ndarray, clusters: np.ndarray, share: bool = False
) -> tuple[float | None, float | None, float | None]:
    """Return (mean, low, high) of float64[prompts]; None: no prompt, or for the interval fewer than two clients."""
    if not len(values):
        return None, None, None
    mean = float(values.mean())
    return (mean, None, None) if clusters.max() == 0 else (mean, *mean_interval(values, clusters, share))


def _paired_bounds(difference: float, count: int) -> tuple[float, float]:
    """Return the two-sided 95 % bounds of a difference of shares that is equal for all `count` prompts."""
    worse, better = count * max(difference, 0.0), count * max(-difference, 0.0)
    return difference_lower(worse, better, count, _SIDE), difference_upper(worse, better, count, _SIDE)


def _verdict(better: str, low: float | None, high: float | None) -> str:
    if low is None or high is None or low <= 0 <= high:
        return UNCLEAR
    return DIFFERS if better == NEITHER else BETTER if (low > 0) == (better == HIGHER) else WORSE
