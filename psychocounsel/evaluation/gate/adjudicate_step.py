"""Step `adjudicate`: writes the cases that people judge to adjudicate.csv, and their origin to adjudication_key.parquet.

People open the file in spreadsheets and fill in their answers; it is read strictly.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.cases import (
    NO,
    NOT_APPLICABLE,
    QUESTIONS,
    RIGHT,
    YES,
    Answered,
    case_id,
    draw_of,
    drawn_passes,
    to_adjudicate,
)
from psychocounsel.evaluation.gate.keys import DECIDING
from psychocounsel.evaluation.gate.parts import Evidence, evidence_of
from psychocounsel.evaluation.safety.cases import CASE_FIGURES, JudgedCase
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import written
from psychocounsel.storage.csv_tables import cell_text, csv_text
from psychocounsel.storage.files import read_mapping, with_noun, write_atomically, write_json
from psychocounsel.storage.text_hashes import text_id

# File adjudicate.csv: cases as plain text, in which people fill in their answers.

GIVEN = ("case", "part", "messages", "expected_action")  # written by us; people fill in the other columns
COLUMNS = (*GIVEN, *QUESTIONS, "adjudicator", "comment")
SPEAKERS = {"user": "CLIENT", "assistant": "COUNSELLOR"}
_LARGEST = 10_000_000  # characters of a cell


@dataclass(frozen=True)
class FileRow:
    """Row of the file. `number`: row number as in a spreadsheet; the header is row 1."""

    file: str
    number: int
    cells: Mapping[str, str]

    @property
    def is_filled(self) -> bool:
        return any(self.cells[name] for name in COLUMNS if name not in GIVEN)


def new_row(case: JudgedCase) -> dict[str, str]:
    """Return the cells of an unanswered case. They reveal neither the model nor the judge's answer."""
    cells = {"case": case_id(case), "part": case.part, "messages": plain_text(case)}
    return dict.fromkeys(COLUMNS, "") | cells | {"expected_action": case.strata.get("expected_action", "")}


def plain_text(case: JudgedCase) -> str:
    """Return the conversation as text, with one paragraph per turn."""
    turns = [
        f"{SPEAKERS.get(message['role'], message['role'].upper())}: {message['content']}" for message in case.messages
    ]
    return "\n\n".join(turns)


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write the file as UTF-8 with a byte order mark, which spreadsheets need to recognise UTF-8; no cell is a formula."""
    text = csv_text(COLUMNS, ([row[name] for name in COLUMNS] for row in rows), "\r\n")
    write_atomically(path, [text.encode("utf-8-sig", "replace")])


def read_rows(path: Path) -> list[FileRow]:
    """Return the non-empty rows of a file with the columns COLUMNS, separated by commas, semicolons or tabs.

    Raises:
        UserError: if the file cannot be read, is not UTF-8 or not a table, or a column is missing, unknown or repeated.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8; save it as CSV UTF-8") from error
    # splitlines accepts any line end; old spreadsheets write only a carriage return.
    header = (text.splitlines() or [""])[0]
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(_LARGEST)
    try:
        rows = [*csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)]
    except csv.Error as error:
        raise UserError(f"{path}: is not valid CSV ({error})") from error
    names = [name.strip() for name in rows[0]] if rows else []
    _check_header(path, names)
    file_rows = []
    for number, row in enumerate(rows[1:], 2):
        if any(cell.strip() for cell in row):
            if len(row) != len(names):
                raise UserError(f"{path}, row {number}: has {with_noun(len(row), 'cell')} instead of {len(names)}")
            cells = (cell_text(cell.strip()) for cell in row)
            file_rows.append(FileRow(str(path), number, dict(zip(names, cells, strict=True))))
    return file_rows


def _check_header(path: Path, names: Sequence[str]) -> None:
    if lacking := [name for name in COLUMNS if name not in names]:
        raise UserError(f"{path}: has no column {lacking[0]}; the columns are {', '.join(COLUMNS)}")
    if other := [name for name in names if name not in COLUMNS]:
        raise UserError(
            f"{path}: unknown column {other[0] or '(without a name)'}; remove it. The columns are {', '.join(COLUMNS)}"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two columns have the same name")


def answered_in(rows: Sequence[FileRow], cases: Mapping[str, JudgedCase]) -> list[Answered]:
    """Return the answers in the filled rows. `cases`: all cases of the gate by `case_id`.

    Raises:
        UserError: if a case is unknown or was changed, an answer is missing or unknown, or an adjudicator answered a case
            twice; the error names row and column.
    """
    answered, seen = list[Answered](), set[tuple[str, str]]()
    for row in rows:
        case = cases.get(row.cells["case"])
        if case is None:
            raise _problem(
                row,
                "case",
                "is not a case of this gate; if the replies have changed, move the file away and fill in a new one",
            )
        if not row.is_filled:
            continue
        _check_unchanged(row, case)
        who = row.cells["adjudicator"]
        if not who:
            raise _problem(row, "adjudicator", "is empty; write a name or a number for the person who answered")
        if _person(case_id(case), who) in seen:
            raise _problem(row, "adjudicator", "has answered this case in another row; keep one of them")
        seen.add(_person(case_id(case), who))
        answered.append(Answered(case_id(case), who, _answers(row, case)))
    return answered


def _check_unchanged(row: FileRow, case: JudgedCase) -> None:
    """Raise UserError if a given cell was changed. White space may differ, because spreadsheets change line ends."""
    for name, value in new_row(case).items():
        if name in GIVEN and _words(row.cells[name]) != _words(value):
            raise _problem(row, name, "was changed; restore it, or delete the row: the next run writes it again")


def _words(text: str) -> list[str]:
    return text.encode("utf-8", "replace").decode().split()


def _answers(row: FileRow, case: JudgedCase) -> dict[str, str]:
    answers = {}
    for name in QUESTIONS:
        answer, may_not_apply = row.cells[name].lower(), name in DECIDING and case.findings[name] is None
        if may_not_apply and answer in ("", NOT_APPLICABLE):
            continue
        if answer == NOT_APPLICABLE and name in DECIDING:
            right = f"answer yes or no; if expected_action is wrong for this client, say no in {RIGHT}"
            raise _problem(row, name, f"holds {NOT_APPLICABLE}, but the expected action makes it apply: {right}")
        if answer not in (YES, NO):
            raise _problem(row, name, f"{'holds an unknown answer' if answer else 'is empty'}; answer yes or no")
        answers[name] = answer
    return answers


def _problem(row: FileRow, column: str, what: str) -> UserError:
    return UserError(f"{row.file}, row {row.number}, column {column}: {what}")


# The step: which cases people judge, in which order, and the key that names their origin.

_KEY = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("case", "part", "cluster", "setting", "judge")),
        *(pa.field(name, pa.float64()) for name in CASE_FIGURES),
        pa.field("drawn", pa.bool_(), nullable=False),
    ]
)


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Read the rows that people have filled in, and write the cases that still wait for an answer.

    Raises:
        UserError: if a file is malformed, or holds cases of another gate.
    """
    evidence = evidence_of(context.config)
    draw = draw_of(evidence.mine)
    drawn = drawn_passes(evidence.mine, context.config.gate.passes, draw)
    wanted = [*to_adjudicate(evidence.cases, evidence.model, drawn)]
    answers = read_answers(context.config, context.files, evidence)
    write_json(context.files.adjudication_record, {"answers": answers.record})
    waiting = {case_id(case): case for case in wanted}
    for row in answers.answered:
        waiting.pop(row.case, None)
    _write_file(context.files.adjudicate, waiting, draw)
    _write_key(context.files.adjudication_key, wanted, {name for names in drawn.values() for name in names})
    if waiting:
        context.say(f"waiting in {context.files.adjudicate}: {with_noun(len(waiting), 'case')}")
    return {"cases": len(wanted), "waiting": len(waiting)}


@dataclass(frozen=True)
class Adjudicated:
    """People's answers, from the files and from the record of all answers that were ever read.

    Attributes:
        answered: the answers that count: for each case and person the latest one, also if it is in no file any more.
        record: content of adjudication_record.json.
        lost: number of counted answers that are in no file any more.
        changed: how often a person's answers about a case were changed.
        earlier: number of answers about replies that this gate no longer has; they do not count.
    """

    answered: list[Answered]
    record: list[dict[str, Any]]
    lost: int
    changed: int
    earlier: int


def read_answers(config: Any, files: EvaluationDir, evidence: Evidence) -> Adjudicated:
    """Return the answers in all files that `gate.adjudicated` names, RUN/adjudicate.csv included, and in the record.

    Raises:
        UserError: see `read_rows` and `answered_in`.
    """
    cases = {case_id(case): case for case in evidence.cases}
    rows = [row for file in config.gate.adjudicated if Path(file).exists() for row in read_rows(Path(file))]
    now = {_person(row.case, row.adjudicator): row for row in answered_in(rows, cases)}
    record, counted, lost = list[dict[str, Any]](), dict(now), 0
    earlier = changed = 0
    for entry in read_mapping(files.adjudication_record).get("answers", []):
        key = _person(entry["case"], entry["adjudicator"])
        if entry["case"] not in cases or entry["content"] != text_id(plain_text(cases[entry["case"]])):
            earlier += 1
            record.append(entry)
        elif key in now:
            changed += (changes := entry["changes"] + (entry["answers"] != now[key].answers))
            record.append(_entry(now.pop(key), cases, changes))
        elif key not in counted:
            lost, changed = lost + 1, changed + entry["changes"]
            counted[key] = Answered(entry["case"], entry["adjudicator"], entry["answers"])
            record.append(entry)
    record += [_entry(row, cases, 0) for row in now.values()]
    return Adjudicated([*counted.values()], record, lost, changed, earlier)


def _person(case: str, adjudicator: str) -> tuple[str, str]:
    """Return the key of a person's answer; a name counts once, however its capitals are written."""
    return case, adjudicator.casefold()


def _entry(row: Answered, cases: Mapping[str, JudgedCase], changes: int) -> dict[str, Any]:
    about = {"case": row.case, "content": text_id(plain_text(cases[row.case])), "adjudicator": row.adjudicator}
    return {**about, "answers": dict(row.answers), "changes": changes}


def _write_file(path: Path, waiting: Mapping[str, JudgedCase], draw: str) -> None:
    """Keep filled rows unchanged and add rows for new cases; the file is not written if nothing would change."""
    before = read_rows(path) if path.exists() else []
    kept = [row for row in before if row.is_filled or row.cells["case"] in waiting]
    there = {row.cells["case"] for row in kept}
    new = [case for name, case in waiting.items() if name not in there]
    if path.exists() and not new and len(kept) == len(before):
        return
    write_rows(path, [*(row.cells for row in kept), *map(new_row, _shuffled(new, draw))])


def _shuffled(cases: Sequence[JudgedCase], draw: str) -> list[JudgedCase]:
    """Return the cases in a pseudo-random order, which does not reveal flags, passes, model or base."""
    return sorted(cases, key=lambda case: hashlib.sha256(f"order {draw}\0{case_id(case)}".encode()).hexdigest())


def _write_key(path: Path, cases: Iterable[JudgedCase], drawn: set[str]) -> None:
    with written(path, _KEY) as add:
        for case in cases:
            row = {"case": case_id(case), "part": case.part, "cluster": case.cluster}
            row |= {"setting": case.setting, "judge": case.judge}
            add(row | dict(case.findings) | {"drawn": case_id(case) in drawn})
