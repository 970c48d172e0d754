"""`report.csv`: one line for each cell of each table of the report, with all digits."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psychocounsel.reporting.blocks import Report, ReportTable
from psychocounsel.storage.files import write_atomically
from psychocounsel.studies.tables.formats import Cell
from psychocounsel.studies.tables.runs import TableFigure

COLUMNS = ("section", "table", "line", "row", "column", "value", "sd", "n", "low", "high", "text")


def write_cells(report: Report, path: Path) -> None:
    """Write the cells of all tables. `line` counts a table's rows from 1; `row` is the text of the row's first cell.

    A figure fills value, sd, n, low and high (shares between 0 and 1). A text fills the last column. A missing cell leaves
    all of them empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, ReportTable):
                writer.writerows([section.name, block.name, *cells] for cells in _cells(block))
    write_atomically(path, text.getvalue())


def _cells(block: ReportTable) -> Iterator[list[Any]]:
    for number, row in enumerate(block.table.rows, 1):
        title = row[0] if isinstance(row[0], str) else ""
        for heading, cell in zip(block.table.headings, row, strict=True):
            yield [number, title, heading, *_values(cell)]


def _values(cell: Cell) -> list[Any]:
    if not isinstance(cell, TableFigure):
        return ["", "", "", "", "", cell or ""]
    parts = (cell.value, cell.sd, cell.n, cell.low, cell.high)
    return [*("" if part is None else part for part in parts), ""]
