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
    """Rating of a contestant's reply by a judge.

    Attributes:
        item: id of the prompt and its criteria.
        setting: setting of the contestant.
        seed: number of the contestant within its setting.
        sample: number of the reply to this prompt.
        reply_outcome: outcome of the reply; only non-empty replies with `text` or `cut` are rated.
        reply: text of the reply.
        judge: name of the judge.
        outcome: outcome of the judge's call; `withheld` if it may not see the prompt; None if the reply is not rated.
        values: the judge's values by criterion; None unless `outcome` is `text`.
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
    """Return all figures of a rubric set, ready for JSON. `base`: the setting that the others are compared with.

    An item's score is the mean over its rated replies and judges. Replies without a rating are not scored, but counted by
    outcome. Intervals (95 %) resample items. Scores are also given for each judge.
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
    """Return each item's score, float64[items]: points over the largest possible, averaged over ratings; NaN if unrated."""
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
    """Return the mean share of points of each named criterion; for a fault, the share of replies that have it."""
    items = {item.item: item for item in found.items}
    shares: dict[str, dict[str, list[float]]] = {}
    for rating in ratings:
        for criterion, value in zip(items[rating.item].criteria, rating.values or (), strict=False):
            if criterion.name is not None:
                shares.setdefault(criterion.name, {}).setdefault(rating.item, []).append(criterion.share(value))
    return {name: _mean(np.array([np.mean(each) for each in of.values()])) for name, of in sorted(shares.items())}


def _difference(found: RubricSet, mine: Sequence[RubricRating], base: Sequence[RubricRating]) -> dict[str, Any]:
    """Return the paired difference over items that the same judges rated for both, and an exact two-sided sign test."""
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
    """Return True if judges rate the reply: it has a text that a client would read, even if it was cut."""
    return outcome in (TEXT, CUT) and bool(text.strip())
