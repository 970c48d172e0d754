"""Reader for rubrics about whole conversations in the format of VERA-MH's rubric.tsv (docs/flows.md)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.evaluation.flows.foreign_files import TableRow, refused, tsv_rows, utf8_text
from psychocounsel.evaluation.flows.question_flow import END, HIGH, LOW, VOID, FlowQuestion, QuestionFlow

COLUMNS = ("Question ID", "Dimension", "Severity", "Risk Type", "Question", "Examples", "Answer", "GOTO")
_SEVERITIES = {"red": HIGH, "yellow": LOW, "yelow": LOW}  # "yelow": spelling of the published file
_FAULT = "yes"
_ENDINGS = {"END": VOID, "ASSIGN_END": END}  # END: no dimension is rated; ASSIGN_END: faults found so far count
_OF_QUESTION = COLUMNS[:6]


@dataclass(frozen=True)
class ConversationRubric:
    """Rubric of questions about a whole conversation. `version`: hash of the file's content (16 hexadecimal digits)."""

    path: Path
    flow: QuestionFlow
    version: str


@dataclass
class _Question:
    """Question of a file that is being read. `given`: (answer, line, GOTO) of each answer; if empty, Yes and No."""

    row: TableRow
    given: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.row.cells["Question ID"]

    @property
    def dimension(self) -> str:
        return self.row.cells["Dimension"]


def rubric_file(path: Path) -> Path:
    """Return the rubric's file: `path` itself, or data/rubric.tsv or rubric.tsv in the folder `path`.

    Raises:
        UserError: if the file does not exist.
    """
    places = [path / "data" / "rubric.tsv", path / "rubric.tsv"] if path.is_dir() else [path]
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"{path}: has no rubric; give a file such as rubric.tsv, or a folder with data/rubric.tsv")


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
    return ConversationRubric(path, flow, hashlib.sha256(utf8_text(path).encode()).hexdigest()[:16])


def _questions(path: Path) -> list[_Question]:
    found = list[_Question]()
    for row in tsv_rows(path, COLUMNS, more=False):
        cells = row.cells
        if cells["Question ID"]:
            if cells["Question ID"] in (each.id for each in found):
                raise refused(path, row.line, "an earlier line has the same Question ID")
            for name in ("Question", "Dimension"):
                if not cells[name]:
                    raise refused(path, row.line, f"the {name} of this question is empty")
            if cells["Severity"] and cells["Severity"].lower() not in _SEVERITIES:
                raise refused(path, row.line, "the Severity must be Red, Yellow or empty")
            found.append(_Question(row))
        elif not found:
            raise refused(path, row.line, "has an answer before the first question")
        elif filled := [name for name in _OF_QUESTION if cells[name]]:
            raise refused(
                path, row.line, f"a row without a Question ID may have only Answer and GOTO, but no {filled[0]}"
            )
        elif not cells["Answer"]:
            raise refused(path, row.line, "has neither a Question ID nor an Answer")
        _add_answer(path, row, found[-1])
    return found


def _add_answer(path: Path, row: TableRow, question: _Question) -> None:
    answer, goto = row.cells["Answer"], row.cells["GOTO"]
    if not answer:
        if goto:
            raise refused(path, row.line, "has a GOTO without an Answer")
        return
    if row.line != question.row.line and not question.given:
        raise refused(path, row.line, "has an answer to a question whose own row has no answer")
    if answer.lower() in (each.lower() for each, _, _ in question.given):
        raise refused(path, row.line, "repeats an answer of its question")
    question.given.append((answer, row.line, goto))


def _flow_question(path: Path, place: int, questions: list[_Question]) -> FlowQuestion:
    question = questions[place]
    later = {each.id: each for each in questions[place + 1 :]}
    goto = dict[str, str]()
    for answer, line, target in question.given:
        if target and target not in _ENDINGS and target not in later:
            raise refused(path, line, "the GOTO must be the id of a later question, END or ASSIGN_END")
        if target:
            goto[answer] = _ENDINGS.get(target, target)
    answers = tuple(answer for answer, _, _ in question.given) or ("Yes", "No")
    cells = question.row.cells
    faults = [answer for answer in answers if answer.lower() == _FAULT]
    for answer in faults:
        next_dimension = next((each.id for each in later.values() if each.dimension != question.dimension), END)
        goto.setdefault(answer, next_dimension)
    if cells["Severity"] and not faults:
        raise refused(path, question.row.line, "has a Severity, but no answer Yes that it could apply to")
    severity = {faults[0]: _SEVERITIES[cells["Severity"].lower()]} if cells["Severity"] else {}
    return FlowQuestion(question.id, cells["Question"], answers, goto, question.dimension, severity, cells["Examples"])
