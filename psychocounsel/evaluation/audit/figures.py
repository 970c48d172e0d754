"""Figures of an audit, as audit.json holds them. `low` and `high` are the ends of a 95 % interval by components."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from psychocounsel.evaluation.judging.controls import ControlFigures


class Accuracy(TypedDict):
    """Share of pairs that are judged right. A tie counts half."""

    accuracy: float
    low: float
    high: float


class JudgedAccuracy(Accuracy):
    """Accuracy on the `judged` pairs that cross-fitting could test."""

    judged: int


class CueAccuracy(Accuracy):
    """Share of pairs that the larger value of a cue wins; the values differ in `decides` pairs."""

    decides: int


class BestCue(TypedDict):
    """Accuracy of the best `cue` (column `column`), central 95 % of the best accuracy under random labels, and its p-value."""

    column: int
    accuracy: float
    low: float
    high: float
    p: float
    cue: str


class BlindFigures(TypedDict):
    """Accuracy without the client's speech.

    `baselines`: by name, then by scheme of folds: `by_prompt` and, where topics are known, `by_topic`. `cues`: each single
    cue over all pairs, without cross-fitting. `best`: the name of the best cue, which `maximum` compares with random labels.
    """

    baselines: dict[str, dict[str, JudgedAccuracy]]
    cues: dict[str, CueAccuracy]
    maximum: BestCue
    best: str


class AuditedCounts(TypedDict):
    """`prompts` and `replies` are distinct texts; `writers` is None if not all pairs name them."""

    pairs: int
    prompts: int
    replies: int
    components: int
    largest_component: int
    writers: int | None


class TopicCounts(TypedDict):
    """`source` is FROM_DATA, CLUSTERS or NONE of `audit.topics`."""

    source: str
    count: int


class AuditGate(TypedDict):
    """Verdict on the limit `audit.max_blind`, and the baseline that decides it."""

    limit: float | None
    baseline: str
    verdict: str


class PrincipleRatings(TypedDict):
    """Mean and standard deviation of ratings, share of top ratings, correlation with the sum of the other principles."""

    mean: float
    deviation: float
    at_top: float
    with_others: float | None


class Halo(TypedDict):
    """Cronbach's alpha, share of variance of the first component, and correlations of the principles; None: no variance."""

    replies: int
    alpha: float | None
    first_component: float | None
    mean_correlation: float | None
    correlations: list[list[float | None]]
    principles: dict[str, PrincipleRatings]


class Disagreement(TypedDict):
    """Of `of` rated replies, `replies` have several different ratings, with the mean standard deviation `deviation`."""

    replies: int
    of: int
    deviation: float


class AuditFigures(TypedDict):
    """All figures; `audit` adds `settings` and `fingerprint` (sha256 of all texts) to the file.

    `reading` holds the figures of `reading_figures` for each judge (`reward`, `overlap`), `flipped`, and for a reward model
    `beyond_overlap`. `principles` holds the `principle_reading` of a reward model with a score for each principle.
    `controls` holds each judge's preferences for controls. `repeats` and `against` (by name of the other set) hold the
    counts of `faults.repeats` and `faults.shared`.
    """

    counts: AuditedCounts
    topics: TopicCounts
    blind: BlindFigures
    reading: dict[str, Mapping[str, Any]]
    principles: NotRequired[dict[str, dict[str, Any]]]
    controls: NotRequired[dict[str, ControlFigures]]
    gate: AuditGate
    halo: Halo | None
    disagreement: Disagreement | None
    contradictions: dict[str, int]
    repeats: dict[str, int]
    against: dict[str, Mapping[str, Any]]
    settings: NotRequired[Mapping[str, Any]]
    fingerprint: NotRequired[str]
