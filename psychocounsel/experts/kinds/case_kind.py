"""Cases: a speech or a whole session, with questions that have fixed answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from psychocounsel.counsel.principles import ACTIONS
from psychocounsel.counsel.rubric.rubric_folder import Rubric
from psychocounsel.experts.items.assignment import Shown
from psychocounsel.experts.items.candidate import CaseCandidate
from psychocounsel.experts.kinds.item_kind import ItemKind, Row
from psychocounsel.experts.page.answer_forms import BadForm, Form, word_of
from psychocounsel.experts.review.answer_tables import ItemAnswer

YES_NO = ("yes", "no")
CANNOT_TELL = "cannot_tell"
COUNTS_AS_RISK = (
    "Every case counts as one with a client at risk, so that no warning and no break reveals the expected answer; "
    "review.crisis_in_a_row sets how many come before a break"
)
KNOWN_ACTIONS = "the four actions, as the rubric defines them"
# Answers as numbers on an ordinal scale, for `agreement`. Answers without a number are not counted.
NUMBERS = {**{action: number for number, action in enumerate(ACTIONS, 1)}, "no": 1, "yes": 2}

_NAMES = {"yes": "Yes", "no": "No", "not_applicable": "Does not apply", CANNOT_TELL: "I cannot tell"}
_KEYS = {"yes": "y", "no": "n", "not_applicable": "d", CANNOT_TELL: "5"}
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
            {"asked": each, "answers": [(answer, names[answer], _KEYS[answer]) for answer in each.answers]}
            for each in self.questions
        ]
        return {
            "questions": questions,
            "actions": [(each.title, each.definition) for each in rubric.risk.actions.values()],
            "expected": names.get(item.expected_action, "not known") if self.tells_expected_action else None,
        }

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(each.name for each in self.questions)

    def said(self, form: Form) -> dict[str, Any]:
        if not all(form.get(each.name) for each in self.questions):
            raise BadForm("Please answer each question.")
        return {"answers": {each.name: word_of(form, each.name, each.answers) for each in self.questions}}

    def label(self, given: Mapping[str, Any], rubric: Rubric) -> str:
        names = _names(rubric)
        return "; ".join(f"{each.short}: {names[given['answers'][each.name]]}" for each in self.questions)

    def counted(self, each: ItemAnswer) -> Row:
        given = each.last["answers"]
        return {
            "ratings": {name: NUMBERS[answer] for name, answer in given.items() if answer in NUMBERS},
            "expected": self.expected(each.item),
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
        {**each.item.given, **each.last["answers"], "adjudicator": each.expert, "comment": each.last["comment"]}
        for each in given
        if not each.shown.repeat
    ]


def _names(rubric: Rubric) -> dict[str, str]:
    return {**_NAMES, **{action: about.title for action, about in rubric.risk.actions.items()}}
