"""Flows of branching questions about replies and conversations: their scores by dimension, and rubrics in VERA-MH's format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.evaluation.flows.foreign_files import TableRow, bundle_files, refused, tsv_rows, utf8_text
from psychocounsel.evaluation.health.figures import MeanFigure, means
from psychocounsel.evaluation.health.reply import HIGHER, LOWER, NEITHER, Figure
from psychocounsel.storage.text_hashes import text_id

# Flow of branching questions: each answer determines the next question, and faults are scored by dimension.

END = "END"  # target: no question follows, and the answers so far count
VOID = "VOID"  # target: no question follows, and no dimension is rated
HIGH, LOW, NONE, NOT_ASKED = "high", "low", "none", "not_asked"
SEVERITIES = (HIGH, LOW)  # severities of faults, the worst first


@dataclass(frozen=True)
class FlowQuestion:
    """Question of a flow.

    Attributes:
        id: its identifier.
        text: the question.
        answers: allowed answers.
        goto: target by answer: the id of a later question, END or VOID. Other answers lead to the next question in order.
        dimension: the dimension that it rates.
        severity: severity by answer, for answers that are faults (one of SEVERITIES).
        notes: notes on how to answer it; may be "".
        unrated: answers after which its dimension is not rated.
        automatic: True if its only answer is taken without asking a judge.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    goto: Mapping[str, str] = field(default_factory=dict)
    dimension: str = ""
    severity: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    unrated: frozenset[str] = frozenset()
    automatic: bool = False

    def answer(self, answers: Mapping[str, str]) -> str | None:
        """Return the answer to this question in `answers`, by id, or its automatic one; None if there is none."""
        return self.answers[0] if self.automatic else answers.get(self.id)


class QuestionFlow:
    """Ordered questions with their branches.

    Raises:
        ValueError: if an id is repeated, `goto` or `severity` name an unknown answer, `goto` leads to an unknown or earlier
            question, or a severity is not one of SEVERITIES.
    """

    def __init__(self, questions: Sequence[FlowQuestion]) -> None:
        self.questions = tuple(questions)
        self.dimensions = tuple(dict.fromkeys(question.dimension for question in questions))
        self._places = {question.id: place for place, question in enumerate(questions)}
        if len(self._places) < len(questions):
            raise ValueError("two questions have the same id")
        for place, question in enumerate(questions):
            for answer in (*question.goto, *question.severity):
                if answer not in question.answers:
                    raise ValueError(f"{question.id}: {answer} is not one of its answers")
            for target in question.goto.values():
                if target not in (END, VOID) and self._places.get(target, -1) <= place:
                    raise ValueError(f"{question.id}: goes to {target}, which is not a later question")
            if wrong := set(question.severity.values()) - set(SEVERITIES):
                raise ValueError(f"{question.id}: {min(wrong)} is not a severity")

    def path(self, answers: Mapping[str, str]) -> dict[str, str]:
        """Return the answers on the path, in order, by question id; answers to questions off the path are left out.

        Raises:
            KeyError: if a question on the path has no answer.
        """
        return {question.id: question.answer(answers) or answers[question.id] for question in self._way(answers)}

    def next_question(self, answers: Mapping[str, str]) -> FlowQuestion | None:
        """Return the first question on the path without an answer in `answers`; None if the path is complete."""
        return next((question for question in self._way(answers) if question.answer(answers) is None), None)

    def _way(self, answers: Mapping[str, str]) -> Iterator[FlowQuestion]:
        """Yield the questions on the path; questions without an answer are treated as if the next one in order followed."""
        place = 0
        while place < len(self.questions):
            question = self.questions[place]
            yield question
            target = question.goto.get(question.answer(answers) or "")
            if target in (END, VOID):
                return
            place = place + 1 if target is None else self._places[target]


def dimension_scores(flow: QuestionFlow, answers: Mapping[str, str]) -> dict[str, str]:
    """Return the worst severity found in each dimension: "high", "low", "none" or "not_asked".

    "none": questions of the dimension are on the path, but no answer is a fault. "not_asked": no question of the dimension
    is on the path, an answer of the dimension leaves it unrated, or an answer on the path leads to VOID.

    Raises:
        KeyError: if a question on the path has no answer in `answers`.
    """
    scores = dict.fromkeys(flow.dimensions, NOT_ASKED)
    path = flow.path(answers)
    asked = [question for question in flow.questions if question.id in path]
    if any(question.goto.get(path[question.id]) == VOID for question in asked):
        return scores
    order = (HIGH, LOW, NONE, NOT_ASKED)
    for question in asked:
        severity = question.severity.get(path[question.id], NONE)
        scores[question.dimension] = min(scores[question.dimension], severity, key=order.index)
    return scores | {question.dimension: NOT_ASKED for question in asked if path[question.id] in question.unrated}


# Shares of replies or conversations with a high, a low or no fault, by dimension, with intervals by cluster.

Scores = Mapping[str, str]  # by dimension, as `dimension_scores` returns them

SEVERITY_FIGURES = {
    HIGH: Figure("high fault", LOWER),
    LOW: Figure("low fault", LOWER),
    NONE: Figure("no fault", HIGHER),
    NOT_ASKED: Figure("not asked", NEITHER),
}


def severity_shares(
    scores: Mapping[Any, Sequence[Scores]], dimensions: Iterable[str]
) -> dict[str, dict[str, MeanFigure]]:
    """Return, for each dimension, the shares `high`, `low`, `none` and `not_asked` with 95 % intervals by cluster.

    `high`, `low` and `none` are shares of the replies or conversations in which the dimension was asked about, and add up to
    1; `not_asked` is a share of all. Each share has the form that `means` returns.

    Args:
        scores: for each cluster (a speech or a persona), the scores of its replies or conversations.
        dimensions: the dimensions of the flow.
    """
    return {
        dimension: means(
            {cluster: [_marks(case[dimension]) for case in cases] for cluster, cases in scores.items()},
            SEVERITY_FIGURES,
        )
        for dimension in dimensions
    }


def _marks(severity: str) -> dict[str, float | None]:
    asked = severity != NOT_ASKED
    marks: dict[str, float | None] = {name: float(severity == name) if asked else None for name in (HIGH, LOW, NONE)}
    return marks | {NOT_ASKED: float(not asked)}


# Reader for rubrics about whole conversations in the format of VERA-MH's rubric.tsv (docs/safety.md#whole-sessions).

COLUMNS = ("Question ID", "Dimension", "Severity", "Risk Type", "Question", "Examples", "Answer", "GOTO")
_SEVERITIES = {"red": HIGH, "yellow": LOW, "yelow": LOW}  # "yelow": spelling of the published file
_FAULT = "yes"
_ENDINGS = {"END": VOID, "ASSIGN_END": END}  # END: no dimension is rated; ASSIGN_END: faults found so far count
_OF_QUESTION = COLUMNS[:6]
_UNRATED = "NOT_RELEVANT>>"  # before an id: the dimension is not rated, and the path goes on there
_AUTOMATIC = "Auto Answer"  # a column of later versions


@dataclass(frozen=True)
class ConversationRubric:
    """Rubric of questions about a whole conversation. `version`: hash of the file's content (16 hexadecimal digits)."""

    path: Path
    flow: QuestionFlow
    version: str


@dataclass
class _Question:
    """Question of a file that is being read. `answers`: (answer, line, GOTO) of each answer; if empty, Yes and No."""

    row: TableRow
    answers: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.row.cells["Question ID"]

    @property
    def dimension(self) -> str:
        return self.row.cells["Dimension"]


def rubric_file(path: Path) -> Path:
    """Return the rubric's file: `path` itself, or the file that a checkout of VERA-MH or one of its folders names.

    Raises:
        UserError: if there is no such file.
    """
    return bundle_files(path, "rubric_file", "rubric.tsv", "rubric")[0]


def read_vera_rubric(path: Path) -> ConversationRubric:
    """Read the rubric of a file.

    Rows without an id hold further answers of the question above them. A question without answers has Yes and No. Yes is a
    fault with the question's severity, if it has one. A Yes without a GOTO leads to the first question of the next
    dimension, as in VERA-MH's own judge; any other answer without a GOTO leads to the next question.

    Raises:
        UserError: if the file is malformed; the error names the line.
    """
    questions = _questions(path)
    if not questions:
        raise refused(path, 1, "has no questions below the header")
    flow = QuestionFlow([_flow_question(path, place, questions) for place in range(len(questions))])
    return ConversationRubric(path, flow, text_id(utf8_text(path)))


def _questions(path: Path) -> list[_Question]:
    questions = list[_Question]()
    for row in tsv_rows(path, COLUMNS):
        cells = row.cells
        if cells["Question ID"]:
            if cells["Question ID"] in (question.id for question in questions):
                raise refused(path, row.line, "an earlier line has the same Question ID")
            for name in ("Question", "Dimension"):
                if not cells[name]:
                    raise refused(path, row.line, f"the {name} of this question is empty")
            if cells["Severity"] and cells["Severity"].lower() not in _SEVERITIES:
                raise refused(path, row.line, "the Severity must be Red, Yellow or empty")
            questions.append(_Question(row))
        elif not questions:
            raise refused(path, row.line, "has an answer before the first question")
        elif filled := [name for name in _OF_QUESTION if cells[name]]:
            raise refused(
                path, row.line, f"a row without a Question ID may have only Answer and GOTO, but no {filled[0]}"
            )
        elif not cells["Answer"]:
            raise refused(path, row.line, "has neither a Question ID nor an Answer")
        _add_answer(path, row, questions[-1])
    return questions


def _add_answer(path: Path, row: TableRow, question: _Question) -> None:
    answer, goto = row.cells["Answer"], row.cells["GOTO"]
    if not answer:
        if goto:
            raise refused(path, row.line, "has a GOTO without an Answer")
        return
    if row.line != question.row.line and not question.answers:
        raise refused(path, row.line, "has an answer to a question whose own row has no answer")
    if answer.lower() in (earlier.lower() for earlier, _, _ in question.answers):
        raise refused(path, row.line, "repeats an answer of its question")
    question.answers.append((answer, row.line, goto))


def _flow_question(path: Path, place: int, questions: list[_Question]) -> FlowQuestion:
    question = questions[place]
    later = {follower.id: follower for follower in questions[place + 1 :]}
    goto = dict[str, str]()
    for answer, line, target in question.answers:
        next_id = target.removeprefix(_UNRATED)
        if target and target not in _ENDINGS and next_id not in later:
            raise refused(path, line, "the GOTO must be the id of a later question, END or ASSIGN_END")
        if target:
            goto[answer] = _ENDINGS.get(target, next_id)
    answers = tuple(answer for answer, _, _ in question.answers) or ("Yes", "No")
    cells = question.row.cells
    faults = [answer for answer in answers if answer.lower() == _FAULT]
    for answer in faults:
        next_dimension = next(
            (follower.id for follower in later.values() if follower.dimension != question.dimension), END
        )
        goto.setdefault(answer, next_dimension)
    if cells["Severity"] and not faults:
        raise refused(path, question.row.line, "has a Severity, but no answer Yes that it could apply to")
    severity = {faults[0]: _SEVERITIES[cells["Severity"].lower()]} if cells["Severity"] else {}
    automatic = cells.get(_AUTOMATIC, "").lower() == "true"
    if automatic and len(question.answers) != 1:
        raise refused(path, question.row.line, f"has an {_AUTOMATIC}, for which it needs exactly one Answer")
    return FlowQuestion(
        question.id,
        cells["Question"],
        answers,
        goto,
        question.dimension,
        severity,
        cells["Examples"],
        unrated=frozenset(answer for answer, _, target in question.answers if target.startswith(_UNRATED)),
        automatic=automatic,
    )
