"""What the files of a rubric hold, as dataclasses: their fields are the keys of the YAML.

Limits stand in annotations: the `keys` that a mapping must have (all of them, and no others), the `choices` of a value, and the
`at_least` many entries of a list (1 where nothing is said).
"""

from dataclasses import dataclass
from typing import Annotated

from psychocounsel.counsel.principles import (
    ACTIONS,
    DISCLOSURES,
    PRINCIPLES,
    RATINGS,
    RECENCIES,
    RISK_KINDS,
    SAFETY_QUESTIONS,
    STAGES,
)

HEADINGS = ("at_most", "biases", "caps", "circumstance", "client", "counts_as_no", "counts_as_yes", "danger")
HEADINGS += ("definition", "disclosures", "elsewhere", "evidence", "example", "examples", "expected_action")
HEADINGS += ("good_answer", "good_reply", "imminent_risk", "literature", "look_for", "misfit", "not_applicable")
HEADINGS += ("phrasings", "rating", "reason", "recencies", "reply", "risk", "safety_questions", "stages", "ties")

SIGNS = DISCLOSURES[1:]  # all but "none": with no sign of a risk, no action is expected

Rating = Annotated[int, {"choices": RATINGS}]
ActionsByTime = Annotated[dict[str, Annotated[str, {"choices": ACTIONS}]], {"keys": RECENCIES}]
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
class Stages:
    origin: str
    about: str
    steps: tuple[str, ...]  # how a rater infers the stage, in order
    stages: Annotated[dict[str, Stage], {"keys": STAGES}]
    literature: tuple[Citation, ...]


@dataclass(frozen=True)
class SafetyQuestion:
    question: str
    good_answer: Annotated[str, {"choices": ("yes", "no")}]
    at_most: Limit  # of the rating on safety, if the answer is not the good one
    counts_as_yes: str
    counts_as_no: str
    not_applicable: str
    evidence: str  # what the rater quotes


@dataclass(frozen=True)
class SafetyQuestions:
    origin: str
    about: str
    questions: Annotated[dict[str, SafetyQuestion], {"keys": SAFETY_QUESTIONS}]
    literature: tuple[Citation, ...]

    def highest_safety(self, answers: dict[str, str]) -> int:
        """The highest rating on safety that the answers ("yes", "no", "not_applicable") to these questions leave.

        Raises:
            KeyError: for a name that is not in SAFETY_QUESTIONS.
            ValueError: for any other answer.
        """
        if wrong := [name for name, answer in answers.items() if answer not in ("yes", "no", "not_applicable")]:
            raise ValueError(f"{wrong[0]}: an answer is yes, no or not_applicable")
        asked = {self.questions[name]: answer for name, answer in answers.items()}
        bad = (each.at_most for each, answer in asked.items() if answer not in (each.good_answer, "not_applicable"))
        return min(bad, default=RATINGS[-1])


@dataclass(frozen=True)
class RiskAction:
    title: str
    definition: str


@dataclass(frozen=True)
class RiskKind:
    title: str
    role: Annotated[
        str, {"choices": ("danger", "circumstance")}
    ]  # a circumstance alone is no danger, but changes what one calls for
    definition: str
    phrasings: tuple[str, ...]
    good_reply: str
    expected_action: Annotated[dict[str, ActionsByTime], {"keys": SIGNS}]


@dataclass(frozen=True)
class RiskSign:
    """A value of disclosure or of recency."""

    title: str
    definition: str
    phrasings: tuple[str, ...]
    good_reply: str


@dataclass(frozen=True)
class Risk:
    origin: str
    about: str
    steps: tuple[str, ...]
    actions: Annotated[dict[str, RiskAction], {"keys": ACTIONS}]
    kinds: Annotated[dict[str, RiskKind], {"keys": RISK_KINDS}]
    disclosures: Annotated[dict[str, RiskSign], {"keys": DISCLOSURES}]
    recencies: Annotated[dict[str, RiskSign], {"keys": RECENCIES}]
    literature: tuple[Citation, ...]

    def expected_action(self, kind: str, disclosure: str, recency: str) -> str:
        """What a reply to a client with this one risk should do: one of ACTIONS. Of several risks the most urgent counts.

        Raises:
            KeyError: for a name that is not in RISK_KINDS, DISCLOSURES or RECENCIES.
        """
        if recency not in self.recencies:
            raise KeyError(recency)
        return "none" if disclosure == "none" else self.kinds[kind].expected_action[disclosure][recency]


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


@dataclass(frozen=True)
class Rubric:
    """A whole rubric in one language; each field but `principles` is a file."""

    guide: Guide
    risk: Risk
    stages: Stages
    safety_questions: SafetyQuestions
    principles: Annotated[dict[str, Principle], {"keys": PRINCIPLES}]
