"""Cells of every CSV table that we write are no formulas in a spreadsheet, and reading gives back their texts."""

import csv
import io
import re
from pathlib import Path

import pytest

import psychocounsel
from psychocounsel.blocks.kinds import Report, ReportTable, Section
from psychocounsel.blocks.tables import Table, csv_of
from psychocounsel.reporting.exports import write_cells
from psychocounsel.storage.csv_tables import cell_text, csv_text

CELLS = {
    "=HYPERLINK(1)": "'=HYPERLINK(1)",
    "+1+cmd|' /C calc'!A0": "'+1+cmd|' /C calc'!A0",
    "-2+3": "'-2+3",
    "@SUM(1)": "'@SUM(1)",
    "\t=1": "'\t=1",
    "\r=1": "'\r=1",
    "-": "'-",
    "--": "'--",
    "'=1": "''=1",
    "''-5": "'''-5",
    "'-5": "''-5",
    "-\uff15": "'-\uff15",
    "-inf": "'-inf",
    "-5": "-5",
    "+0.25": "+0.25",
    "-1.5e-07": "-1.5e-07",
    "5": "5",
    "": "",
    "it's = fine": "it's = fine",
    "'quoted'": "'quoted'",
    "\u00b1 1": "\u00b1 1",
}


@pytest.mark.parametrize(("text", "cell"), CELLS.items())
def test_a_cell_is_no_formula_and_comes_back(text: str, cell: str) -> None:
    (_, (read, number)) = csv.reader(io.StringIO(csv_text(["text", "n"], [[text, -0.5]]), newline=""))
    assert (read, number) == (cell, "-0.5")
    assert cell_text(read) == text


def test_tables_of_reports_and_studies_hold_no_formula(tmp_path: Path) -> None:
    table = Table("t", ["run", "=note"], [["=1+1", "@x"], ["-5", None]])
    assert csv_of(table) == "run,'=note\n'=1+1,'@x\n-5,\n"
    write_cells(Report("r", [], [Section("=s", "S", [ReportTable("+t", table)])]), tmp_path / "report.csv")
    cells = [cell for row in csv.reader(io.StringIO((tmp_path / "report.csv").read_text())) for cell in row]
    assert {"'=s", "'+t", "'=1+1", "'@x", "'=note", "-5"} <= {*cells}


def test_no_other_module_writes_csv() -> None:
    package = Path(psychocounsel.__file__).parent
    writing = [
        file for file in package.rglob("*.py") if re.search(r"csv\.(writer|DictWriter)|to_csv", file.read_text())
    ]
    assert [file.name for file in writing] == ["csv_tables.py"]
