"""Text of CSV tables that people open in spreadsheets: no cell is a formula, and reading a cell gives back its text."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # a spreadsheet evaluates a cell that begins with one of these signs
_NUMBER = re.compile(r"[+-]?([0-9]++\.?[0-9]*+|\.[0-9]+)([eE][+-]?[0-9]+)?")


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]], line_end: str = "\n") -> str:
    """Return a table as CSV with a header line. Texts that begin like a formula and are no number get an apostrophe before it."""
    lines = list[str]()
    for row in (columns, *rows):
        line = io.StringIO()
        csv.writer(line).writerow(map(_no_formula, row))  # its own line end, \r\n, makes it quote a lone \r in a cell
        lines.append(line.getvalue().removesuffix("\r\n") + line_end)
    return "".join(lines)


def _no_formula(cell: Any) -> Any:
    is_formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def cell_text(cell: str) -> str:
    """Return the text of a cell that `csv_text` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
