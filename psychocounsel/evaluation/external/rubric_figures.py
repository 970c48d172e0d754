"""Figures of rubric sets: mean scores with intervals, by criterion and topic, and paired differences to the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psychocounsel.asking.language_model import CUT, TEXT
from psychocounsel.evaluation.external.exam_figures import sign_test
from psychocounsel.evaluation.external.rubric_items import RubricSet
from psychocounsel.evaluation.external.rubric_ratings import Values
from psychocounsel.metrics.stats import mean_intervals


@dataclass(frozen=True)
class RubricRating:
    """What a judge said of a contestant's reply.

    Attributes:
        reply_outcome: what came of the reply; only `text` and `cut` ones that hold something are rated.
        outcome: what came of the judge; None where it was not asked. `values` are there with `text` alone.
    """

    item: str
    setting: str
    seed: int
    sample: int
    reply_outcome: str
    reply: str
    judge: str
    outcome: str | None
    values: Values | None


def rubric_figures(found: RubricSet, ratings: Sequence[RubricRating], base: str | None = None) -> dict[str, Any]:
    """All figures of a set, for JSON; `base` is the setting that others are compared with.

    An item's score is the mean over its rated replies and judges; what is not rated counts for nothing, and is counted.
    Intervals are of 95 %, over resampled items. With several judges their figures stand apart, too.
    """
    settings = [*dict.fromkeys(rating.setting for rating in ratings)]
    judges = [*dict.fromkeys(rating.judge for rating in ratings)]
    figures: dict[str, Any] = {
        "items": len(found.items),
        "repeated": found.repeated,
        "judges": judges,
        "settings": {name: _of_setting(found, [each for each in ratings if each.setting == name]) for name in settings},
    }
    if base in settings:
        theirs = [each for each in ratings if each.setting == base]
        figures["against"] = {
            name: _difference(found, [each for each in ratings if each.setting == name], theirs) | {"base": base}
            for name in settings
            if name != base
        }
    return figures


def rubric_scores(found: RubricSet, ratings: Sequence[RubricRating]) -> np.ndarray:
    """float64[items]: points over the most that can be reached, the mean over ratings; NaN without one."""
    places = {item.item: place for place, item in enumerate(found.items)}
    scores: list[list[float]] = [[] for _ in places]
    for rating in ratings:
        if rating.values is not None:
            place = places[rating.item]
            scores[place].append(found.items[place].score(rating.values))
    return np.array([np.mean(each) if each else np.nan for each in scores])


def _of_setting(found: RubricSet, ratings: Sequence[RubricRating]) -> dict[str, Any]:
    scores = rubric_scores(found, ratings)
    judges = [*dict.fromkeys(rating.judge for rating in ratings)]
    replies = {(each.item, each.seed, each.sample): each.reply_outcome for each in ratings}
    topics = np.array([item.topic or "" for item in found.items])
    return {
        **_mean(scores),
        "replies": dict(sorted(Counter(replies.values()).items())),
        "ratings": dict(sorted(Counter(each.outcome or "not asked" for each in ratings).items())),
        "judges": {name: _mean(rubric_scores(found, [r for r in ratings if r.judge == name])) for name in judges},
        "criteria": _by_criterion(found, ratings),
        "topics": {str(topic): _mean(scores[topics == topic]) for topic in sorted({*topics} - {""})},
    }


def _by_criterion(found: RubricSet, ratings: Sequence[RubricRating]) -> dict[str, Any]:
    """Of criteria with a name: the mean share of their points (of a fault: the share of replies that have it)."""
    items = {item.item: item for item in found.items}
    shares: dict[str, dict[str, list[float]]] = {}
    for rating in ratings:
        for criterion, value in zip(items[rating.item].criteria, rating.values or (), strict=False):
            if criterion.name is not None:
                shares.setdefault(criterion.name, {}).setdefault(rating.item, []).append(criterion.share(value))
    return {name: _mean(np.array([np.mean(each) for each in of.values()])) for name, of in sorted(shares.items())}


def _difference(found: RubricSet, mine: Sequence[RubricRating], base: Sequence[RubricRating]) -> dict[str, Any]:
    """Paired over items that the same judges rated for both; `p` is of the two-sided exact sign test."""
    judges = {rating.judge for rating in mine} & {rating.judge for rating in base}
    changes = [
        rubric_scores(found, [each for each in mine if each.judge == judge])
        - rubric_scores(found, [each for each in base if each.judge == judge])
        for judge in sorted(judges)
    ]
    told = np.array(changes).reshape(len(changes), len(found.items))
    known = ~np.isnan(told)
    rows = known.any(0)
    change = np.where(known, told, 0).sum(0)[rows] / known.sum(0)[rows]
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    figures = _mean(change)
    return {
        "items": figures["items"],
        "difference": figures["score"],
        "interval": figures["interval"],
        "better": better,
        "worse": worse,
        "p": sign_test(better, worse),
    }


def _mean(scores: np.ndarray) -> dict[str, Any]:
    told = scores[~np.isnan(scores)]
    if not len(told):
        return {"items": 0, "score": None, "interval": None}
    low, high = mean_intervals(told[:, None], np.arange(len(told)))[0]
    return {"items": len(told), "score": float(told.mean()), "interval": [float(low), float(high)]}


def is_rateable(outcome: str, text: str) -> bool:
    """Whether a reply is shown to judges: one that a client would read, also where it was cut."""
    return outcome in (TEXT, CUT) and bool(text.strip())
