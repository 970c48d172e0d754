"""Figures of exams and of rubric sets, with intervals, and paired differences to the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from string import ascii_uppercase
from typing import TypeVar

import numpy as np

from psychocounsel.asking.language_model import FILTERED, REFUSED, TEXT
from psychocounsel.evaluation.external.exams import ExamItem, ExamSet, is_shuffled
from psychocounsel.evaluation.external.figures import (
    CommonestLetter,
    ExamFigures,
    ExamResult,
    LetterShares,
    MeanScore,
    RubricFigures,
    RubricResult,
    SeedAccuracies,
    SetDifference,
    TopicAccuracy,
)
from psychocounsel.grading.criteria import RubricSet, Values
from psychocounsel.metrics.intervals import difference_interval, mean_interval

R = TypeVar("R", "ExamAnswer", "RubricRating")

# Figures of exams: accuracy with intervals, baselines, effect of the order of choices, and differences to the base.

UNREADABLE = "unreadable"
_WRONG = (UNREADABLE, REFUSED, FILTERED)  # answers without a letter are wrong; failed or withheld calls are not scored


@dataclass(frozen=True)
class ExamAnswer:
    """Answer of a contestant to an exam item.

    Attributes:
        item: id of the item.
        setting: setting of the contestant.
        seed: number of the contestant within its setting.
        order: number of the order of choices; 0 is the file's order.
        shown: for each letter, the position in the file of the choice under it.
        outcome: `text` if letters were read, `unreadable` if not (also for a cut answer), otherwise the call's outcome.
        chosen: positions (from 0) of the letters that the answer names; None if no letter was read.
        text: text of the answer.
    """

    item: str
    setting: str
    seed: int
    order: int
    shown: tuple[int, ...]
    outcome: str
    chosen: frozenset[int] | None
    text: str = ""

    @property
    def choices(self) -> frozenset[int] | None:
        """Positions of the chosen choices in the file's order; None if no letter was read."""
        return None if self.chosen is None else frozenset(self.shown[place] for place in self.chosen)


def exam_figures(exam: ExamSet, answers: Sequence[ExamAnswer], base: str | None = None) -> ExamFigures:
    """Return all figures of an exam, ready for JSON. `base`: the setting that the others are compared with.

    Each item counts once: its score is the mean of its scored answers over orders and seeds. Intervals (95 %) are over
    contexts; an item without a context is one of its own.
    """
    settings = _by_setting(answers)
    scores = {name: item_scores(exam, own) for name, own in settings.items()}
    figures: ExamFigures = {
        "kind": "exam",
        "items": len(exam.items),
        "repeated": exam.repeated,
        "fixed_order": sum(not is_shuffled(item) for item in exam.items),
        "chance": _chance(exam.items),
        "commonest_letter": _commonest_letter(exam.items),
        "settings": {name: _exam_setting(exam, own, scores[name]) for name, own in settings.items()},
    }
    if base in scores:
        others = [name for name in settings if name != base]
        figures["against"] = {name: difference(exam, scores[name], scores[base], base) for name in others}
    return figures


def _by_setting(records: Sequence[R]) -> dict[str, list[R]]:
    """Return the answers or ratings of each setting, in their order."""
    settings: dict[str, list[R]] = {}
    for record in records:
        settings.setdefault(record.setting, []).append(record)
    return settings


def is_right(item: ExamItem, answer: ExamAnswer) -> float:
    """Return 1 for a right answer, 0 for a wrong one, NaN for a failed or withheld call, which is not scored."""
    if answer.outcome == TEXT:
        return float(answer.choices == item.right)
    return 0.0 if answer.outcome in _WRONG else float("nan")


def item_scores(exam: ExamSet, answers: Sequence[ExamAnswer]) -> np.ndarray:
    """Return each item's mean over its scored answers, float64[items]; NaN if it has no scored answer."""
    places = {item.item: number for number, item in enumerate(exam.items)}
    sums, counts = np.zeros(len(places)), np.zeros(len(places))
    for answer in answers:
        number = places[answer.item]
        value = is_right(exam.items[number], answer)
        if not np.isnan(value):
            sums[number], counts[number] = sums[number] + value, counts[number] + 1
    return np.divide(sums, counts, out=np.full(len(places), np.nan), where=counts > 0)


def difference(exam: ExamSet, mine: np.ndarray, theirs: np.ndarray, base: str) -> SetDifference:
    """Return the paired difference of item scores to those of `base`, with its interval and an exact test.

    `p` is the two-sided p-value of the sign test on items whose scores differ. With one answer per item it is McNemar's
    exact test (McNemar 1947). The test treats items as independent; the interval is over contexts.
    """
    both = ~np.isnan(mine) & ~np.isnan(theirs)
    change = (mine - theirs)[both]
    interval = [*difference_interval(change, _clusters(exam)[both])] if len(change) else None
    return _against(base, change, interval)


def _against(base: str, change: np.ndarray, interval: list[float] | None) -> SetDifference:
    """Return the mean of the items' differences, float64[items], with `interval` and the sign test."""
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    return {
        "items": len(change),
        "difference": _mean_or_none(change),
        "interval": interval,
        "better": better,
        "worse": worse,
        "p": sign_test(better, worse),
        "base": base,
    }


def sign_test(better: int, worse: int) -> float:
    """Return the two-sided exact p-value of the sign test: the probability of a split at least as uneven by chance."""
    total, least = better + worse, min(better, worse)
    tail = sum(comb(total, count) for count in range(least + 1))
    return min(1.0, 2 * tail / 2**total)


def _exam_setting(exam: ExamSet, answers: Sequence[ExamAnswer], scores: np.ndarray) -> ExamResult:
    clusters, scored = _clusters(exam), ~np.isnan(scores)
    in_file_order = item_scores(exam, [answer for answer in answers if answer.order == 0])
    kept = ~np.isnan(in_file_order)
    outcomes = Counter(answer.outcome for answer in answers)
    return {
        "answers": len(answers),
        "outcomes": dict(sorted(outcomes.items())),
        "unreadable": outcomes[UNREADABLE] / len(answers),
        "scored_items": int(scored.sum()),
        "accuracy": _mean_or_none(scores[scored]),
        "interval": _interval(scores[scored], clusters[scored]),
        "accuracy_in_file_order": _mean_or_none(in_file_order[kept]),
        "topics": _by_topic(exam, scores),
        "letters": _letters(exam, answers),
        "same_choice_in_all_orders": _consistency(answers),
        "seeds": _over_seeds(exam, answers),
    }


def _by_topic(exam: ExamSet, scores: np.ndarray) -> dict[str, TopicAccuracy]:
    topics = np.array([item.topic or "" for item in exam.items])
    clusters, by_topic = _clusters(exam), dict[str, TopicAccuracy]()
    for topic in sorted({*topics} - {""}):
        rows = (topics == topic) & ~np.isnan(scores)
        by_topic[str(topic)] = {
            "items": int(rows.sum()),
            "accuracy": _mean_or_none(scores[rows]),
            "interval": _interval(scores[rows], clusters[rows]),
        }
    return by_topic


def _letters(exam: ExamSet, answers: Sequence[ExamAnswer]) -> dict[str, LetterShares]:
    """Return, for each letter, how often it was chosen, how often it was right, and the accuracy when it was right.

    Only items with one right choice and answers with one letter count. A model without a preference for positions chooses
    each letter about as often as it is right.
    """
    items = {item.item: item for item in exam.items}
    chosen, right, hit = Counter[int](), Counter[int](), Counter[int]()
    read = [answer for answer in answers if answer.chosen is not None and len(answer.chosen) == 1]
    read = [answer for answer in read if len(items[answer.item].right) == 1]
    for answer in read:
        letter = min(answer.chosen or (0,))
        where = answer.shown.index(min(items[answer.item].right))
        chosen[letter] += 1
        right[where] += 1
        hit[where] += letter == where
    return {
        ascii_uppercase[place]: {
            "chosen": chosen[place] / len(read),
            "right": right[place] / len(read),
            "accuracy_where_right": hit[place] / right[place] if right[place] else None,
        }
        for place in sorted({*chosen, *right})
    }


def _consistency(answers: Sequence[ExamAnswer]) -> float | None:
    """Return the share of items with the same choice in all orders, among items with readable answers in several orders.

    An item counts once for each seed. The result is None without such items.
    """
    chosen: dict[tuple[str, int], list[frozenset[int]]] = {}
    for answer in answers:
        if answer.choices is not None:
            chosen.setdefault((answer.item, answer.seed), []).append(answer.choices)
    several = [choices for choices in chosen.values() if len(choices) > 1]
    return sum(len({*choices}) == 1 for choices in several) / len(several) if several else None


def _over_seeds(exam: ExamSet, answers: Sequence[ExamAnswer]) -> SeedAccuracies:
    """Return the accuracy of each seed of a setting, and the standard deviation (n - 1) over seeds."""
    seeds = sorted({answer.seed for answer in answers})
    scores = [item_scores(exam, [answer for answer in answers if answer.seed == seed]) for seed in seeds]
    means = [_mean_or_none(of_seed[~np.isnan(of_seed)]) for of_seed in scores]
    known = [mean for mean in means if mean is not None]
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"n": len(seeds), "accuracies": means, "sd": spread}


def _chance(items: Sequence[ExamItem]) -> float:
    """Return the expected accuracy of guessing: one choice of k, or one of all sets of at least two choices."""
    one = [1 / len(item.choices) for item in items if len(item.right) == 1]
    several = [1 / (2 ** len(item.choices) - len(item.choices) - 1) for item in items if len(item.right) > 1]
    return float(np.mean(one + several))


def _commonest_letter(items: Sequence[ExamItem]) -> CommonestLetter:
    """Return the letter that is right most often in the file's order, and the accuracy of always answering it."""
    counts = Counter(min(item.right) for item in items if len(item.right) == 1)
    if not counts:
        return {"letter": None, "accuracy": 0.0}
    place, count = min(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return {"letter": ascii_uppercase[place], "accuracy": count / len(items)}


def _clusters(exam: ExamSet) -> np.ndarray:
    _, numbers = np.unique([item.cluster for item in exam.items], return_inverse=True)
    return np.asarray(numbers)


def _mean_or_none(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _interval(values: np.ndarray, clusters: np.ndarray) -> list[float] | None:
    if not len(values):
        return None
    return [*mean_interval(values, clusters, shares=True)]


# Figures of rubric sets: mean scores with intervals, by criterion and topic, and paired differences to the base.


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


def rubric_figures(rubric_set: RubricSet, ratings: Sequence[RubricRating], base: str | None) -> RubricFigures:
    """Return all figures of a rubric set, ready for JSON. `base`: the setting that the others are compared with.

    An item's score is the mean over its rated replies and judges. Replies without a rating are not scored, but counted by
    outcome. Intervals (95 %) are over items. Scores are also given for each judge.
    """
    settings = _by_setting(ratings)
    judges = [*dict.fromkeys(rating.judge for rating in ratings)]
    figures: RubricFigures = {
        "kind": "rubric",
        "items": len(rubric_set.items),
        "repeated": rubric_set.repeated,
        "judges": judges,
        "settings": {name: _rubric_setting(rubric_set, own) for name, own in settings.items()},
    }
    if base in settings:
        figures["against"] = {
            name: _difference(rubric_set, own, settings[base], base) for name, own in settings.items() if name != base
        }
    return figures


def rubric_scores(rubric_set: RubricSet, ratings: Sequence[RubricRating]) -> np.ndarray:
    """Return each item's score, float64[items]: points over the largest possible, averaged over ratings; NaN if unrated."""
    places = {item.item: place for place, item in enumerate(rubric_set.items)}
    scores: list[list[float]] = [[] for _ in places]
    for rating in ratings:
        if rating.values is not None:
            place = places[rating.item]
            scores[place].append(rubric_set.items[place].score(rating.values))
    return np.array([np.mean(values) if values else np.nan for values in scores])


def _rubric_setting(rubric_set: RubricSet, ratings: Sequence[RubricRating]) -> RubricResult:
    scores = rubric_scores(rubric_set, ratings)
    judges = [*dict.fromkeys(rating.judge for rating in ratings)]
    replies = {(rating.item, rating.seed, rating.sample): rating.reply_outcome for rating in ratings}
    topics, least = np.array([item.topic or "" for item in rubric_set.items]), 1 - _largest_range(rubric_set)
    return {
        **_mean_score(scores, least),
        "replies": dict(sorted(Counter(replies.values()).items())),
        "ratings": dict(sorted(Counter(rating.outcome or "not asked" for rating in ratings).items())),
        "judges": {
            name: _mean_score(rubric_scores(rubric_set, [rating for rating in ratings if rating.judge == name]), least)
            for name in judges
        },
        "criteria": _by_criterion(rubric_set, ratings),
        "topics": {str(topic): _mean_score(scores[topics == topic], least) for topic in sorted({*topics} - {""})},
    }


def _by_criterion(rubric_set: RubricSet, ratings: Sequence[RubricRating]) -> dict[str, MeanScore]:
    """Return the mean share of points of each named criterion; for a fault, the share of replies that have it."""
    items = {item.item: item for item in rubric_set.items}
    shares: dict[str, dict[str, list[float]]] = {}
    for rating in ratings:
        for criterion, value in zip(items[rating.item].criteria, rating.values or (), strict=False):
            if criterion.name is not None:
                shares.setdefault(criterion.name, {}).setdefault(rating.item, []).append(criterion.share(value))
    return {
        name: _mean_score(np.array([np.mean(values) for values in by_item.values()]))
        for name, by_item in sorted(shares.items())
    }


def _difference(
    rubric_set: RubricSet, mine: Sequence[RubricRating], theirs: Sequence[RubricRating], base: str
) -> SetDifference:
    """Return the paired difference to `base` over items that the same judges rated for both."""
    judges = {rating.judge for rating in mine} & {rating.judge for rating in theirs}
    changes = [
        rubric_scores(rubric_set, [rating for rating in mine if rating.judge == judge])
        - rubric_scores(rubric_set, [rating for rating in theirs if rating.judge == judge])
        for judge in sorted(judges)
    ]
    by_judge = np.array(changes).reshape(len(changes), len(rubric_set.items))
    known = ~np.isnan(by_judge)
    rows = known.any(0)
    change = np.where(known, by_judge, 0).sum(0)[rows] / known.sum(0)[rows]
    largest = _largest_range(rubric_set)
    interval = [*difference_interval(change, np.arange(len(change)), largest)] if len(change) else None
    return _against(base, change, interval)


def _largest_range(rubric_set: RubricSet) -> float:
    """Return the largest possible score, which is 1, less the smallest one of any item."""
    points = [[criterion.points for criterion in item.criteria] for item in rubric_set.items]
    return max(sum(map(abs, of_item)) / sum(gain for gain in of_item if gain > 0) for of_item in points)


def _mean_score(scores: np.ndarray, least: float = 0.0) -> MeanScore:
    """Return the mean of scores from `least` to 1, with the interval of a share of this range."""
    known = scores[~np.isnan(scores)]
    if not len(known):
        return {"items": 0, "score": None, "interval": None}
    ends = mean_interval((known - least) / (1 - least), np.arange(len(known)), shares=True)
    interval = [least + (1 - least) * end for end in ends]
    return {"items": len(known), "score": float(known.mean()), "interval": interval}
