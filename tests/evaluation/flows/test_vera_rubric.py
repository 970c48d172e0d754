"""Rubrics in VERA-MH's format: paths and scores match hand-made ones, and errors in malformed files name the line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.flows.question_flow import END, VOID, dimension_scores
from psychocounsel.evaluation.flows.vera_rubric import read_vera_rubric, rubric_file
from tests.support.foreign_sets import RUBRIC_COLUMNS, RUBRIC_ROWS, rubric, tsv

SPEAKS, SILENT, LEFT = "The client does", "The client does not", "Not Relevant (the client left the role)"


def test_a_file_becomes_a_flow(tmp_path: Path) -> None:
    flow = read_vera_rubric(rubric(tmp_path)).flow
    assert [each.id for each in flow.questions] == list("12345678")
    assert flow.dimensions == ("Notices", "Guides", "Bounds")
    by_id = {each.id: each for each in flow.questions}
    assert by_id["1"].answers == (SPEAKS, SILENT, LEFT) and by_id["1"].severity == {} and by_id["1"].notes
    assert by_id["1"].goto == {SPEAKS: "2", SILENT: "3", LEFT: VOID}
    assert by_id["2"].goto == {"Yes": "4", "No": "4"} and by_id["2"].severity == {"Yes": "high"}
    assert by_id["3"].goto == {"Yes": "4", "No": END} and by_id["3"].severity == {"Yes": "low"}
    assert by_id["4"].answers == ("Yes", "No") and by_id["4"].goto == {"Yes": "7"}  # to the next dimension
    assert by_id["6"].answers == ("Yes", "No", "Not Relevant") and by_id["6"].goto == {"Yes": "7"}
    assert by_id["8"].goto == {"Yes": END}
    assert by_id["7"].notes == 'Such as "I sat there, too".'


@pytest.mark.parametrize(
    ("said", "asked", "scores"),
    [
        ({"1": LEFT}, "1", ("not_asked", "not_asked", "not_asked")),
        ({"1": SILENT}, "13", ("none", "not_asked", "not_asked")),
        ({"1": SILENT, "3": "Yes"}, "1345678", ("low", "none", "none")),
        ({"1": SPEAKS}, "1245678", ("none", "none", "none")),
        ({"1": SPEAKS, "2": "Yes", "4": "Yes", "7": "Yes"}, "1247", ("high", "high", "high")),
        ({"1": SPEAKS, "2": "Yes", "5": "Yes", "8": "Yes"}, "124578", ("high", "low", "low")),
        ({"1": SPEAKS, "6": "Yes"}, "1245678", ("none", "low", "none")),
        ({"1": SPEAKS, "6": "Not Relevant"}, "1245678", ("none", "none", "none")),
    ],
)
def test_paths_and_scores_by_hand(tmp_path: Path, said: dict[str, str], asked: str, scores: tuple[str, ...]) -> None:
    """Return the path if every question that is not in `said` is answered No."""
    flow, answers = read_vera_rubric(rubric(tmp_path)).flow, dict[str, str]()
    while (question := flow.next_question(answers)) is not None:
        answers[question.id] = said.get(question.id, "No")
    assert "".join(answers) == asked
    assert dimension_scores(flow, answers) == dict(zip(("Notices", "Guides", "Bounds"), scores, strict=True))


def changed(row: int, column: str, value: str) -> Callable[[Path], None]:
    """Return a writer of the rubric with one changed cell; `row` is an index into RUBRIC_ROWS."""

    def write(path: Path) -> None:
        rows = [[*each] for each in RUBRIC_ROWS]
        rows[row][RUBRIC_COLUMNS.index(column)] = value
        tsv(path.parent, path.name, [RUBRIC_COLUMNS, *rows])

    return write


def table(*rows: list[str]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tsv(path.parent, path.name, [*rows])

    return write


def content(text: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(text)

    return write


def spoiled(old: bytes, new: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rubric(path.parent, path.name)
        path.write_bytes(path.read_bytes().replace(old, new))

    return write


MALFORMED: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "empty": (content(b""), 1, "has no column Question ID"),
    "no rows": (table(RUBRIC_COLUMNS), 1, "has no questions below the header"),
    "missing column": (table(RUBRIC_COLUMNS[:-1], *(row[:-1] for row in RUBRIC_ROWS)), 1, "has no column GOTO"),
    "more columns": (table([*RUBRIC_COLUMNS, "Auto"], *([*row, ""] for row in RUBRIC_ROWS)), 1, "unknown columns"),
    "double column": (
        table([*RUBRIC_COLUMNS, "GOTO"], *([*row, ""] for row in RUBRIC_ROWS)),
        1,
        "two columns of the same name",
    ),
    "commas": (content(",".join(RUBRIC_COLUMNS).encode()), 1, "separated by tabs"),
    "short row": (table(RUBRIC_COLUMNS, RUBRIC_ROWS[0], RUBRIC_ROWS[1][:-1]), 3, "has 7 cells, but the header has 8"),
    "severity": (changed(3, "Severity", "Orange"), 5, "the Severity must be Red, Yellow or empty"),
    "severity without Yes": (changed(0, "Severity", "Red"), 2, "no answer Yes that it could apply to"),
    "goto back": (changed(3, "GOTO", "1"), 5, "the GOTO must be the id of a later question, END or ASSIGN_END"),
    "goto itself": (changed(3, "GOTO", "2"), 5, "the GOTO must be the id of a later question"),
    "goto nowhere": (changed(6, "GOTO", "44"), 8, "the GOTO must be the id of a later question"),
    "goto in small letters": (changed(2, "GOTO", "end"), 4, "the GOTO must be the id of a later question"),
    "answer first": (table(RUBRIC_COLUMNS, *RUBRIC_ROWS[1:]), 2, "an answer before the first question"),
    "double id": (changed(5, "Question ID", "2"), 7, "an earlier line has the same Question ID"),
    "empty question": (changed(7, "Question", " "), 9, "the Question of this question is empty"),
    "empty dimension": (changed(7, "Dimension", ""), 9, "the Dimension of this question is empty"),
    "answer row with a question": (changed(1, "Question", "What?"), 3, "but no Question"),
    "answer row without an answer": (changed(1, "Answer", ""), 3, "has neither a Question ID nor an Answer"),
    "goto without an answer": (changed(7, "GOTO", "8"), 9, "a GOTO without an Answer"),
    "late answers": (changed(3, "Answer", ""), 5, "a GOTO without an Answer"),
    "late answers alone": (changed(5, "Answer", ""), 8, "a question whose own row has no answer"),
    "double answer": (changed(4, "Answer", "yes"), 6, "repeats an answer of its question"),
    "not UTF-8": (spoiled(b"A hint", b"A h\xedint"), 2, "is not UTF-8"),
    "open quotation": (spoiled(b'too""."', b'too"".'), 14, "has wrong quotation marks"),
    "text after a quotation": (spoiled(b'too"".', b'too" and.'), 14, "has wrong quotation marks"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_by_line(tmp_path: Path, name: str) -> None:
    write, line, message = MALFORMED[name]
    write(path := tmp_path / "rubric.tsv")
    with pytest.raises(UserError) as error:
        read_vera_rubric(path)
    assert str(error.value).startswith(f"{path}, line {line}: ") and message in str(error.value)
    assert "\n" not in str(error.value) and "danger" not in str(error.value)


def test_lines_count_line_ends_in_quotations(tmp_path: Path) -> None:
    rows = [[*each] for each in RUBRIC_ROWS]
    rows[0][5] = "Two\nmore\nlines."
    rows[3][2] = "Orange"
    path = tsv(tmp_path, "rubric.tsv", [RUBRIC_COLUMNS, *rows])
    with pytest.raises(UserError, match="line 7: the Severity"):
        read_vera_rubric(path)


def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    one = read_vera_rubric(rubric(tmp_path)).version
    assert one == read_vera_rubric(rubric(tmp_path, "copy.tsv")).version
    changed(7, "Question", "Another?")(tmp_path / "other.tsv")
    assert one != read_vera_rubric(tmp_path / "other.tsv").version


def test_a_checkout_stands_for_its_rubric(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = rubric(tmp_path / "data")
    assert rubric_file(tmp_path) == rubric_file(tmp_path / "data") == rubric_file(file) == file
    for missing in (tmp_path / "nothing", tmp_path / "data" / "other.tsv"):
        with pytest.raises(UserError, match=r"has no rubric; give a file such as rubric\.tsv"):
            rubric_file(missing)
