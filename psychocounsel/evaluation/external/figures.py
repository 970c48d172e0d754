"""Figures of `evaluation=external` as figures.json holds them. None: not measured; intervals are [low, high] of 95 %."""

from typing import Any, Literal, NotRequired, TypedDict

Interval = list[float]


class SetDifference(TypedDict):
    """Paired difference of a contestant to `base` over items, and the p-value of an exact two-sided sign test."""

    items: int
    difference: float | None
    interval: Interval | None
    better: int
    worse: int
    p: float
    base: str


class CommonestLetter(TypedDict):
    """Letter that is right most often in the file's order, and the accuracy of always answering it; None: no such item."""

    letter: str | None
    accuracy: float


class TopicAccuracy(TypedDict):
    items: int
    accuracy: float | None
    interval: Interval | None


class LetterShares(TypedDict):
    """How often a letter was chosen and was right, and the accuracy of the answers to items for which it was right."""

    chosen: float
    right: float
    accuracy_where_right: float | None


class SeedAccuracies(TypedDict):
    """Accuracy of each of `n` seeds, and their standard deviation (n - 1 in the denominator)."""

    n: int
    accuracies: list[float | None]
    sd: float | None


class ExamResult(TypedDict):
    """A contestant's answers to an exam: `outcomes` counts all of them, `unreadable` is a share."""

    answers: int
    outcomes: dict[str, int]
    unreadable: float
    scored_items: int
    accuracy: float | None
    interval: Interval | None
    accuracy_in_file_order: float | None
    topics: dict[str, TopicAccuracy]
    letters: dict[str, LetterShares]
    same_choice_in_all_orders: float | None
    seeds: SeedAccuracies


class ExamFigures(TypedDict):
    """An exam; `chance` is the accuracy of guessing, `fixed_order` counts items whose choices are not shuffled."""

    kind: Literal["exam"]
    items: int
    repeated: int
    fixed_order: int
    chance: float
    commonest_letter: CommonestLetter
    settings: dict[str, ExamResult]
    against: NotRequired[dict[str, SetDifference]]


class MeanScore(TypedDict):
    """Mean over items of points over the largest possible points."""

    items: int
    score: float | None
    interval: Interval | None


class RubricResult(MeanScore):
    """A contestant's scores, and the counts of `replies` and `ratings` by outcome."""

    replies: dict[str, int]
    ratings: dict[str, int]
    judges: dict[str, MeanScore]
    criteria: dict[str, MeanScore]
    topics: dict[str, MeanScore]


class RubricFigures(TypedDict):
    """A set of prompts with criteria."""

    kind: Literal["rubric"]
    items: int
    repeated: int
    judges: list[str]
    settings: dict[str, RubricResult]
    against: NotRequired[dict[str, SetDifference]]


class TaskMetric(TypedDict):
    """A metric of an lm-eval task; `stderr` is a text if lm-eval knows no standard error."""

    value: float
    stderr: float | str
    documents: int


class AbilityFigures(TypedDict, total=False):
    """Results of lm-eval by contestant, task and metric.

    `against` holds, by contestant, the name of the `base` and, by task and metric, the difference to it.
    """

    settings: dict[str, dict[str, dict[str, TaskMetric]]]
    against: dict[str, dict[str, Any]]


class ExternalFigures(TypedDict):
    """figures.json; `model` is the contestant under evaluation, `base` the one that the others are compared with."""

    evaluation: str
    model: str
    base: str | None
    sets: dict[str, ExamFigures | RubricFigures]
    ability: AbilityFigures
    warnings: list[str]
