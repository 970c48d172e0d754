"""Dataclasses of the rubric's files on risk and safety: their fields are the keys of the YAML (see parts.py)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from psychocounsel.counsel.principles import (
    ACTIONS,
    ANSWERS,
    DISCLOSURES,
    RATINGS,
    RECENCIES,
    RISK_KINDS,
    SAFETY_QUESTIONS,
)
from psychocounsel.counsel.rubric.parts import Citation, Limit, Rating

SIGNS = DISCLOSURES[1:]  # all except "none": without a sign of risk, no action is expected

ActionsByTime = Annotated[dict[str, Annotated[str, {"choices": ACTIONS}]], {"keys": RECENCIES}]


@dataclass(frozen=True)
class RiskAction:
    title: str
    definition: str


@dataclass(frozen=True)
class RiskKind:
    title: str
    # A circumstance is no danger by itself, but changes the action that a danger requires.
    role: Annotated[str, {"choices": ("danger", "circumstance")}]
    definition: str
    phrasings: tuple[str, ...]
    good_reply: str
    expected_action: Annotated[dict[str, ActionsByTime], {"keys": SIGNS}]


@dataclass(frozen=True)
class RiskSign:
    """A value of disclosure or recency."""

    title: str
    definition: str
    phrasings: tuple[str, ...]
    good_reply: str


@dataclass(frozen=True)
class RiskFinding:
    """A rater's notes on one risk in a speech."""

    kind: Annotated[str, {"choices": RISK_KINDS}]
    disclosure: Annotated[str, {"choices": SIGNS}]
    recency: Annotated[str, {"choices": RECENCIES}]
    words: str  # quoted from the speech


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
        """Return the expected action of a reply to a client with this single risk: one of ACTIONS.

        Raises:
            KeyError: if a name is not in RISK_KINDS, DISCLOSURES or RECENCIES.
        """
        if recency not in self.recencies:
            raise KeyError(recency)
        return "none" if disclosure == "none" else self.kinds[kind].expected_action[disclosure][recency]

    def most_urgent(self, findings: Iterable[RiskFinding]) -> str:
        """Return the most urgent expected action for these risks, "none" if there are no risks."""
        actions = (self.expected_action(each.kind, each.disclosure, each.recency) for each in findings)
        return max(actions, key=ACTIONS.index, default="none")

    def disclosed_dangers(self, findings: Iterable[RiskFinding]) -> list[str]:
        """Return the disclosure of each of these risks that is a danger; circumstances are ignored."""
        return [each.disclosure for each in findings if self.kinds[each.kind].role == "danger"]


@dataclass(frozen=True)
class SafetyQuestion:
    question: str
    good_answer: Annotated[str, {"choices": ("yes", "no")}]
    at_most: Limit  # maximum rating on safety if the answer is not the good one
    counts_as_yes: str
    counts_as_no: str
    not_applicable: str
    evidence: str  # what the rater must quote


@dataclass(frozen=True)
class SafetyCase:
    """A speech and a reply with all of a rater's notes about safety."""

    speech: str
    risks: Annotated[tuple[RiskFinding, ...], {"at_least": 0}]
    expected_action: Annotated[str, {"choices": ACTIONS}]
    reply: str
    answers: Annotated[dict[str, Annotated[str, {"choices": ANSWERS}]], {"keys": SAFETY_QUESTIONS}]
    safety: Rating
    reason: str


@dataclass(frozen=True)
class SafetyQuestions:
    origin: str
    about: str
    # Maximum rating on safety if a danger is not recognised, by the client's disclosure.
    unrecognised_at_most: Annotated[dict[str, Limit], {"keys": SIGNS}]
    questions: Annotated[dict[str, SafetyQuestion], {"keys": SAFETY_QUESTIONS}]
    cases: tuple[SafetyCase, ...]
    literature: tuple[Citation, ...]

    def highest_safety(self, answers: dict[str, str], disclosures: Iterable[str]) -> int:
        """Return the highest rating on safety that these answers ("yes", "no", "not_applicable") allow.

        `disclosures` are the disclosures of each danger in the speech (`Risk.disclosed_dangers`).

        Raises:
            KeyError: if a name is not in SAFETY_QUESTIONS or DISCLOSURES.
            ValueError: for any other answer.
        """
        by_disclosure = [self.unrecognised_at_most[each] for each in disclosures if each != "none"]
        if wrong := [name for name, answer in answers.items() if answer not in ANSWERS]:
            raise ValueError(f"{wrong[0]}: an answer is one of {', '.join(ANSWERS)}")
        asked = {self.questions[name]: answer for name, answer in answers.items()}
        bad = [each.at_most for each, answer in asked.items() if answer not in (each.good_answer, "not_applicable")]
        bad += by_disclosure if answers.get("recognises") == "no" else []
        return min(bad, default=RATINGS[-1])
