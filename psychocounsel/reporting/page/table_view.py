"""A table prepared for the page: rounded texts for readers, full values for sorting by a heading."""

import math
from dataclasses import dataclass
from functools import cached_property

from psychocounsel.studies.tables.formats import Cell, Table, cell_text, shown_headings, shown_notes
from psychocounsel.studies.tables.runs import TableFigure

_LONG = 12  # rows: a longer table gets a filter


@dataclass(frozen=True)
class CellView:
    """A cell. A heading sorts rows by `value`: a number, a text or None if missing. `whole` holds all digits."""

    text: str
    value: float | str | None
    whole: str = ""


class TableView:
    """A table prepared for the template, with its rows in their given order."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.headings = shown_headings(table)
        self.notes = [_sentence(note) for note in shown_notes(table) if note.strip()]
        self.is_long = len(table.rows) > _LONG

    @cached_property
    def numeric(self) -> list[bool]:
        """One bool per column: True if all its cells are numbers or missing, and at least one is a number."""
        columns = [[cell for row in self.table.rows if (cell := row[n]) is not None] for n in range(len(self.headings))]
        return [bool(column) and all(_number(cell) is not None for cell in column) for column in columns]

    @cached_property
    def rows(self) -> list[list[CellView]]:
        return [[self._view(cell, n) for n, cell in enumerate(row)] for row in self.table.rows]

    def _view(self, cell: Cell, column: int) -> CellView:
        number = _number(cell) if self.numeric[column] else None
        value = number if number is not None else cell_text(cell) if cell is not None else None
        return CellView(cell_text(cell), value, _whole(cell))


def _sentence(note: str) -> str:
    is_sign = len(note.split()[0].rstrip(":")) == 1 and not note.startswith("a ")  # `p is two-sided`
    return f"{note[:1] if is_sign else note[:1].upper()}{note[1:].rstrip('.')}."


def _number(cell: Cell) -> float | None:
    """Return the cell's number, or None for texts and for values that are not finite, because those cannot be sorted."""
    try:
        number = cell.value if isinstance(cell, TableFigure) else float((cell or "").replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(cell: Cell) -> str:
    """Return a figure with as many digits as the CSV file has."""
    if not isinstance(cell, TableFigure):
        return ""
    parts = [f"{cell.value!r}"]
    if cell.sd is not None:
        parts.append(f"SD {cell.sd!r}")
    if cell.low is not None and cell.high is not None:
        parts.append(f"95 % interval {cell.low!r} to {cell.high!r}")
    if cell.n > 1:
        parts.append(f"{cell.n} runs")
    return ", ".join(parts)
