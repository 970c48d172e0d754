"""File adjudicate.csv: it is blind, safe in spreadsheets, readable after any spreadsheet, and its errors name the cell."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.adjudicate_step import COLUMNS, answered_in, new_row, read_rows, write_rows
from psychocounsel.evaluation.gate.cases import case_id
from tests.evaluation.gate.made_cases import case

FIRST, SECOND = case(1), case(2, over_escalation=None)
CASES = {case_id(each): each for each in (FIRST, SECOND)}
FILLED = dict.fromkeys(("missed", "over_escalation", "under_triage", "hard"), "no") | {
    "expected_action_right": "yes",
    "adjudicator": "anna",
}


def write(path: Path, *changes: dict[str, str]) -> Path:
    write_rows(path, [new_row(each) | change for each, change in zip((FIRST, SECOND), changes, strict=False)])
    return path


def test_a_file_comes_back_as_it_was_filled_in(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", FILLED | {"missed": "Yes ", "comment": "=HYPERLINK(1)"}, {})
    assert path.read_bytes().startswith(b"\xef\xbb\xbfcase,part,messages,expected_action,missed,")
    rows = read_rows(path)
    assert b",'=HYPERLINK(1)" in path.read_bytes()
    assert rows[0].cells["comment"] == "=HYPERLINK(1)" and [row.is_filled for row in rows] == [True, False]
    (found,) = answered_in(rows, CASES)
    assert (found.case, found.adjudicator, found.answers["missed"]) == (case_id(FIRST), "anna", "yes")
    assert "model" not in path.read_text().replace(
        "safety-model", ""
    )  # ids of these cases contain the setting; real ids are hashes


@pytest.mark.parametrize(
    ("delimiter", "encoding", "end"), [(";", "utf-8", "\r\n"), ("\t", "utf-8-sig", "\n"), (";", "utf-8", "\r")]
)
def test_what_spreadsheets_save_is_read(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    with open(tmp_path / "a.csv", "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
        writer.writerow(COLUMNS)
        cells = new_row(FIRST) | FILLED | {"comment": "many, many commas" + 40 * ","}
        cells["messages"] = cells["messages"].replace("\n", end)
        writer.writerow([cells[name] for name in COLUMNS])
        writer.writerow([""] * len(COLUMNS))
    assert len(answered_in(read_rows(tmp_path / "a.csv"), CASES)) == 1


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    said = replace(FIRST, messages=({"role": "user", "content": "=1+1"}, {"role": "assistant", "content": "@SUM(A1)"}))
    write_rows(tmp_path / "a.csv", [new_row(said)])
    with open(tmp_path / "a.csv", encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert not answered_in(read_rows(tmp_path / "a.csv"), {case_id(said): said})


def test_a_figure_that_the_case_has_not_may_stay_empty(tmp_path: Path) -> None:
    (found,) = answered_in(read_rows(write(tmp_path / "a.csv", {}, FILLED | {"over_escalation": ""})), CASES)
    assert "over_escalation" not in found.answers


BAD: dict[str, tuple[dict[str, str], str]] = {
    "another word": (
        {"missed": "perhaps"},
        "row 2, column missed: holds an unknown answer; answer yes or no",
    ),
    "the expected action makes it apply": (
        {"missed": "not_applicable"},
        "row 2, column missed: holds not_applicable, but the expected action makes it apply: answer yes or no",
    ),
    "hard has two words": ({"hard": "not_applicable"}, "row 2, column hard: holds an unknown answer; answer yes or no"),
    "half filled": ({"under_triage": ""}, "row 2, column under_triage: is empty; answer yes or no"),
    "no name": ({"adjudicator": ""}, "row 2, column adjudicator: is empty"),
    "unknown case": ({"case": "safety-0"}, "row 2, column case: is not a case of this gate"),
    "changed reply": ({"messages": "CLIENT: Speech 1.\n\nCOUNSELLOR: Better."}, "row 2, column messages: was changed"),
    "changed action": ({"expected_action": "none"}, "row 2, column expected_action: was changed"),
    "changed part": ({"part": "session"}, "row 2, column part: was changed"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_rows_are_refused_by_row_and_column(tmp_path: Path, name: str) -> None:
    change, wanted = BAD[name]
    path = write(tmp_path / "a.csv", FILLED | change)
    with pytest.raises(UserError) as refused:
        answered_in(read_rows(path), CASES)
    assert str(refused.value).startswith(f"{path}, {wanted}") and "\n" not in str(refused.value)
    assert "Better" not in str(refused.value) and "perhaps" not in str(refused.value)


def test_two_answers_of_one_person_are_refused_and_those_of_two_are_not(tmp_path: Path) -> None:
    def rows(*names: str) -> list[dict[str, str]]:
        return [new_row(FIRST) | FILLED | {"adjudicator": name} for name in names]

    write_rows(tmp_path / "a.csv", rows("anna", "ben"))
    assert len(answered_in(read_rows(tmp_path / "a.csv"), CASES)) == 2
    write_rows(tmp_path / "a.csv", rows("anna", "anna"))
    with pytest.raises(UserError, match="row 3, column adjudicator: has answered this case in another row"):
        answered_in(read_rows(tmp_path / "a.csv"), CASES)


HEAD = ",".join(COLUMNS)
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has no column case"),
    "no column": (HEAD.replace("hard,", "").encode(), "has no column hard; the columns are case, part"),
    "another column": (f"{HEAD},verdict".encode(), "unknown column verdict; remove it. The columns are case, part"),
    "twice": (f"{HEAD},case".encode(), "two columns have the same name"),
    "short row": (f"{HEAD}\na,b".encode(), "row 2: has 2 cells instead of 11"),
    "latin": (HEAD.encode() + b"\n\xe4", "is not UTF-8; save it as CSV UTF-8"),
    "quotes": (f'{HEAD}\n"a"b'.encode(), "is not valid CSV"),
}


@pytest.mark.parametrize("name", FILES)
def test_malformed_files_are_refused(tmp_path: Path, name: str) -> None:
    content, wanted = FILES[name]
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_rows(tmp_path / "a.csv")
    assert wanted in str(refused.value) and "\n" not in str(refused.value)
