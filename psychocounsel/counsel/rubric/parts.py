"""What the files on principles, stages and rating hold, as dataclasses: their fields are the keys of the YAML.

Limits stand in annotations: the `keys` that a mapping must have (all of them, and no others), the `choices` of a value, and the
`at_least` many entries of a list (1 where nothing is said).
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
Limit = Annotated[int, {"choices": RATINGS[:-1]}]  # "at most this"


@dataclass(frozen=True)
class Citation:
    cite: str
    use: str  # what the file takes from the work


@dataclass(frozen=True)
class RatedExample:
    """A reply to one of the file's speeches. `ratings` holds the level's own rating, and may hold those on other principles."""

    sketch: str  # what it shows, in a few words, as "short and excellent"
    speech: str  # a key of the file's `speeches`
    reply: str
    ratings: dict[str, Rating]
    reason: str


@dataclass(frozen=True)
class Level:
    """What a reply with this rating does, so that two raters agree."""

    rule: str
    examples: Annotated[tuple[RatedExample, ...], {"at_least": 2}]


@dataclass(frozen=True)
class Cap:
    """A finding that limits the rating, whatever else the reply does."""

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
    elsewhere: tuple[str, ...]  # what other principles rate
    levels: Annotated[dict[int, Level], {"keys": RATINGS}]
    caps: tuple[Cap, ...]
    ties: tuple[str, ...]
    not_applicable: str
    imminent_risk: str  # how to rate where the expected action is an emergency
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
    """A speech whose stage is easily mistaken."""

    speech: str
    change: str
    stage: Annotated[str, {"choices": STAGES}]
    words: str  # of the speech, that decide
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
    language: str  # a code as of BCP 47: en, de, pt-BR
    title: str
    review: str  # who has reviewed the rubric
    steps: tuple[str, ...]
    imminent_risk: str
    biases: tuple[str, ...]  # what must not move a rating
    headings: Annotated[dict[str, str], {"keys": HEADINGS}]
    literature: tuple[Citation, ...]
