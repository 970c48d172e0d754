"""`ItemKind`: where items come from, what the page asks about them and how answers are stored. `CaseKind`: its base for cases."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from psychocounsel.counsel.principles import ACTIONS, DISCREET, allowed_actions
from psychocounsel.counsel.rubric import Rubric
from psychocounsel.experts.items.candidates import CaseCandidate, Drawn, ItemCandidate, Shown
from psychocounsel.experts.page.forms import BadForm, Form, refuse_other_fields, seconds_of, text_of, word_of
from psychocounsel.experts.review.progress import ItemAnswer, RaterProgress, item_answers
from psychocounsel.rundir.paths import ReviewDir

AnswerRow = dict[str, Any]


@dataclass(frozen=True)
class KindTexts:
    """Texts for experts and for the documents of the protocol.

    Attributes:
        title: title of the page, unless `review.title` is set.
        request: the request to experts in the consent text.
        task: the expert's task for one item.
        risks: a sentence on the content that experts may read.
        shows, limits: what the review can show, and its limits.
        drawing: the order in which items are drawn.
        measure, secondary, coding: the main measure, secondary measures, and how answers are coded.
        training: prior knowledge of the experts.
        collected: data kept of an answer.
        sides: placement of the replies; "" if an item does not have two.
    """

    title: str
    request: str
    task: str
    risks: str
    shows: str
    limits: str
    drawing: str
    measure: str
    secondary: str
    coding: str
    training: str
    collected: str
    sides: str = ""


class ItemKind(ABC):
    """Base class of the kinds of items: pairs of replies, speeches of a crisis set, and cases of a gate.

    Attributes:
        name: the kind's name in plan.json.
        what: name of the items in messages.
        template: name of the form's template.
        draws_all: True if every candidate becomes an item unless `review.items` is typed.
        without_effect: keys below `review` without effect on this kind; typing one is refused.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    template: ClassVar[str]
    texts: ClassVar[KindTexts]
    draws_all: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def holds(self, data: str) -> bool:
        """True if `data` holds items of this kind."""

    @abstractmethod
    def candidates(self, data: str) -> Sequence[ItemCandidate]:
        """Return everything in `data` that experts could be asked about.

        Raises:
            UserError: if there is nothing, or it cannot be read.
        """

    @abstractmethod
    def item(self, row: Mapping[str, Any]) -> ItemCandidate:
        """Return the candidate from a row of items.jsonl."""

    @abstractmethod
    def drawn_line(self, drawn: Sequence[Drawn], candidates: int) -> str:
        """Return the line that tells the study's organiser how many items were drawn from `candidates` candidates."""

    @abstractmethod
    def shown(self, item: Any, shown: Shown, options: Any, rubric: Rubric) -> dict[str, Any]:
        """Return the template's values for this kind, in addition to those of every kind."""

    @property
    @abstractmethod
    def fields(self) -> frozenset[str]:
        """Names of the form's fields, in addition to `comment` and `seconds`."""

    @abstractmethod
    def answer_fields(self, form: Form) -> dict[str, Any]:
        """Return the answer as fields of this kind.

        Raises:
            BadForm: if a required value is missing, or a value is not offered by the page.
        """

    @abstractmethod
    def label(self, given: Mapping[str, Any], rubric: Rubric) -> str:
        """Return an answer in a few words, for the expert's list of answers."""

    @abstractmethod
    def answer_columns(self, answer: ItemAnswer) -> AnswerRow:
        """Return the columns of answers.jsonl that hold the answer itself."""

    @abstractmethod
    def write_tables(self, files: ReviewDir, given: Sequence[ItemAnswer]) -> None:
        """Write the tables of this kind, other than answers.jsonl, readable only by their owner."""

    def answer_of(self, form: Form, elapsed: float | None) -> dict[str, Any]:
        """Return the answer to an item: the fields of `answer_fields`, `comment` and `seconds`.

        `elapsed` is the time in seconds since the server showed the item, or None if unknown. `seconds` is the time
        that the page was visible, limited by `elapsed` (see `seconds_of`).

        Raises:
            BadForm: if a required value is missing, or a field or value is not offered by the page.
        """
        refuse_other_fields(form, {"comment", "seconds", *self.fields})
        return {
            **self.answer_fields(form),
            "comment": text_of(form, "comment"),
            "seconds": seconds_of(form, elapsed),
        }

    def answer_rows(
        self, raters: Mapping[str, RaterProgress], items: Mapping[str, ItemCandidate]
    ) -> Iterator[AnswerRow]:
        """Yield a row for each answer that counts, with the columns of docs/experts.md, then `changed` and `time`."""
        for answer in item_answers(raters, items):
            yield {
                "item": answer.item.item,
                "speech": answer.item.speech,
                "rater": answer.expert,
                "repeat": answer.shown.repeat,
                "seconds": round(sum(event["seconds"] for event in answer.history), 1),
                "risk": answer.item.risk,
                "topic": answer.item.topic,
                "language": answer.item.language,
                "comment": answer.last["comment"] or None,
                **self.answer_columns(answer),
                "changed": len(answer.history) - 1,
                "time": answer.last["time"],
            }


# Cases: a speech or a whole session, with questions that have fixed answers

YES_NO = ("yes", "no")
CANNOT_TELL = "cannot_tell"
COUNTS_AS_RISK = (
    "Every case counts as one with a client at risk, so that no warning and no break reveals the expected answer; "
    "review.crisis_in_a_row sets how many come before a break"
)
KNOWN_ACTIONS = "the actions, as the page defines them"
# Answers as numbers on an ordinal scale, for `agreement`. Answers without a number are not counted.
NUMBERS = {**{action: number for number, action in enumerate(ACTIONS, 1)}, "no": 1, "yes": 2}

# An action that the rubric does not have, because a rater of a reply sees it by the client's words alone.
_DISCREET = (
    "Go along, and name nothing",
    "Somebody reads these words at this moment. The reply answers only what may be read, names neither the danger nor help, "
    "asks nothing about it, and leaves a way to write again alone.",
)
_NAMES = {"yes": "Yes", "no": "No", "not_applicable": "Does not apply", CANNOT_TELL: "I cannot tell"}
_NAMES[DISCREET] = _DISCREET[0]
_KEYS = {"yes": "y", "no": "n", "not_applicable": "d", DISCREET: "5", CANNOT_TELL: "6"}
_KEYS |= {action: str(number) for number, action in enumerate(ACTIONS, 1)}


@dataclass(frozen=True)
class Question:
    """A question that experts answer about a case.

    Attributes:
        name: name of the form's field and of the exported column.
        short: the question in a word or two, for the expert's list of answers.
        hint: explanation of the answer yes; "" if the question is clear without it.
    """

    name: str
    short: str
    text: str
    answers: tuple[str, ...]
    hint: str = ""


class CaseKind(ItemKind):
    """Base of the cases of a crisis set and of a gate.

    Attributes:
        questions: questions in the order of the page; each must be answered.
        tells_expected_action: True if the page shows the action that the data expect.
    """

    template: ClassVar[str] = "case"
    without_effect: ClassVar[tuple[str, ...]] = (
        "ratings",
        "safety",
        "flagged",
        "sense",
        "sheet",
        "practice",
        "practice_share",
        "practice_rounds",
    )
    questions: ClassVar[tuple[Question, ...]]
    tells_expected_action: ClassVar[bool] = False

    def item(self, row: Mapping[str, Any]) -> CaseCandidate:
        about = {name: row[name] for name in CaseCandidate.__dataclass_fields__}
        return CaseCandidate(**about | {"strata": tuple(row["strata"]), "flags": tuple(row["flags"])})

    def shown(self, item: Any, shown: Shown, options: Any, rubric: Rubric) -> dict[str, Any]:
        names = _names(rubric)
        questions = [
            {"question": question, "answers": [(answer, names[answer], _KEYS[answer]) for answer in question.answers]}
            for question in self.questions
        ]
        return {
            "questions": questions,
            "actions": [*((action.title, action.definition) for action in rubric.risk.actions.values()), _DISCREET],
            "expected": _expected(item.expected_action, names) if self.tells_expected_action else None,
        }

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(question.name for question in self.questions)

    def answer_fields(self, form: Form) -> dict[str, Any]:
        if not all(form.get(question.name) for question in self.questions):
            raise BadForm("Please answer each question.")
        given = {question.name: word_of(form, question.name, question.answers) for question in self.questions}
        return {"answers": given}

    def label(self, given: Mapping[str, Any], rubric: Rubric) -> str:
        names = _names(rubric)
        return "; ".join(f"{question.short}: {names[given['answers'][question.name]]}" for question in self.questions)

    def answer_columns(self, answer: ItemAnswer) -> AnswerRow:
        given = answer.last["answers"]
        return {
            "ratings": {name: NUMBERS[word] for name, word in given.items() if word in NUMBERS},
            "expected": self.expected(answer.item),
            "answers": given,
        }

    def expected(self, item: CaseCandidate) -> dict[str, int]:
        """Return the data's own values as numbers by question; {} if the data have none."""
        return {}


def export_rows(given: Sequence[ItemAnswer]) -> list[dict[str, str]]:
    """Return a row for each expert and case: the source table's cells, the answers, `adjudicator` and `comment`.

    Repeated items are skipped.
    """
    return [
        {**answer.item.given, **answer.last["answers"], "adjudicator": answer.expert, "comment": answer.last["comment"]}
        for answer in given
        if not answer.shown.repeat
    ]


def _expected(label: str, names: Mapping[str, str]) -> str:
    return " or ".join(names.get(action, "not known") for action in allowed_actions(label))


def _names(rubric: Rubric) -> dict[str, str]:
    return {**_NAMES, **{action: about.title for action, about in rubric.risk.actions.items()}}
