"""Dataclasses of the rubric's files on principles, stages and rating: their fields are the keys of the YAML.

Annotations set limits: the `keys` of a mapping (all of them required, no others allowed), the `choices` of a value, and the
minimum length of a list (`at_least`, default 1).
"""

from dataclasses import dataclass
from typing import Annotated

from psychocounsel.counsel.principles import RATINGS, STAGES

HEADINGS: tuple[str, ...] = ("answers", "at_most", "biases", "caps", "cases", "change", "circumstance", "client")
HEADINGS += ("counts_as_no", "counts_as_yes", "danger", "definition", "disclosures", "elsewhere", "evidence", "example")
HEADINGS += ("examples", "expected_action", "good_answer", "good_reply", "imminent_risk", "literature", "look_for")
HEADINGS += ("misfit", "not_applicable", "phrasings", "rating", "reason", "recencies", "reply", "risk")
HEADINGS += ("safety_questions", "stage", "stages", "ties", "words")

Rating = Annotated[int, {"choices": RATINGS}]
Limit = Annotated[int, {"choices": RATINGS[:-1]}]  # a maximum rating


@dataclass(frozen=True)
class Citation:
    cite: str
    use: str  # what the file uses from the work


@dataclass(frozen=True)
class RatedExample:
    """A rated reply to one of the file's speeches.

    `ratings` holds the rating of the level it stands under, and may hold ratings on other principles.
    """

    sketch: str  # its point in a few words, such as "short and excellent"
    speech: str  # a key of the file's `speeches`
    reply: str
    ratings: dict[str, Rating]
    reason: str


@dataclass(frozen=True)
class Level:
    """A rating: the rule for giving it, precise enough for two raters to agree, and examples."""

    rule: str
    examples: Annotated[tuple[RatedExample, ...], {"at_least": 2}]


@dataclass(frozen=True)
class Cap:
    """A finding that limits the rating, whatever the rest of the reply is like."""

    when: str
    at_most: Limit
    because: str


@dataclass(frozen=True)
class Principle:
    name: str
    title: str
    origin: str
    definition: str
    look_for: tuple[str, ...]
    elsewhere: tuple[str, ...]  # aspects that other principles rate
    levels: Annotated[dict[int, Level], {"keys": RATINGS}]
    caps: tuple[Cap, ...]
    ties: tuple[str, ...]
    not_applicable: str
    imminent_risk: str  # how to rate if the expected action is an emergency
    speeches: dict[str, str]
    literature: tuple[Citation, ...]


@dataclass(frozen=True)
class Stage:
    title: str
    definition: str
    phrasings: tuple[str, ...]
    good_reply: str
    misfit: str


@dataclass(frozen=True)
class StageCase:
    """A speech whose stage is easy to misjudge."""

    speech: str
    change: str
    stage: Annotated[str, {"choices": STAGES}]
    words: str  # the decisive words of the speech
    reason: str


@dataclass(frozen=True)
class Stages:
    origin: str
    about: str
    steps: tuple[str, ...]  # how a rater infers the stage, in order
    stages: Annotated[dict[str, Stage], {"keys": STAGES}]
    cases: tuple[StageCase, ...]
    literature: tuple[Citation, ...]


@dataclass(frozen=True)
class Guide:
    origin: str
    language: str  # BCP 47 code: en, de, pt-BR
    title: str
    review: str  # who has reviewed the rubric
    steps: tuple[str, ...]
    imminent_risk: str
    biases: tuple[str, ...]  # things that must not influence a rating
    headings: Annotated[dict[str, str], {"keys": HEADINGS}]
    literature: tuple[Citation, ...]
