"""Tables of figures with their spread, and their text as CSV with every number, Markdown and LaTeX (booktabs)."""

from dataclasses import dataclass, field
from typing import Any

from psychocounsel.blocks.markdown import escaped
from psychocounsel.storage.csv_tables import csv_text
from psychocounsel.storage.files import readable_time


@dataclass(frozen=True)
class TableFigure:
    """A value with the available information about its spread.

    Attributes:
        sd: standard deviation over seeds (n - 1 in the denominator); None for one run.
        low, high: 95 % interval: of the mean over seeds (Student's t), or of one run over prompts, from its evaluation.
        n: number of runs.
        percent: shown as a percentage.
        hours: a number of hours, shown as a time: `24 s`, `1.5 h`.
        spreads: False for values without interval, such as hours and p-values, for which no note about the spread is printed.
    """

    value: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 1
    percent: bool = False
    spreads: bool = True
    hours: bool = False

    @property
    def is_degenerate(self) -> bool:
        """True if the interval has no width: all groups have this value, so it says nothing about the uncertainty."""
        return self.sd is None and self.low is not None and self.low == self.high

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The ends of the interval; None, None if there is none, or if it has no width."""
        return (None, None) if self.is_degenerate else (self.low, self.high)

    def shown(self, number: float) -> str:
        if self.hours:
            return readable_time(3600 * number)
        return f"{100 * number:.1f}" if self.percent else f"{number:.4g}"


Cell = TableFigure | str | None
MISSING = "-"
NO_INTERVAL = "no interval, because all groups have this value: too few decide it"


@dataclass
class Table:
    """Rows of cells below headings; None is a missing figure. `notes` explain the table to its readers."""

    title: str
    headings: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def csv_of(table: Table) -> str:
    """Return columns of figures as value, sd, n, low and high, with all digits, shares from 0 to 1; missing ones are empty.

    An interval without width counts as missing.
    """
    figures = {column for row in table.rows for column, cell in enumerate(row) if isinstance(cell, TableFigure)}
    parts = ("sd", "n", "low", "high")
    headings = list[str]()
    for column, name in enumerate(table.headings):
        headings += [name, *(f"{name} {part}" for part in parts)] if column in figures else [name]
    lines = list[list[Any]]()
    for row in table.rows:
        written = list[Any]()
        for column, cell in enumerate(row):
            if column in figures:
                blank = not isinstance(cell, TableFigure)
                written += [cell if isinstance(cell, str) else "", *("" for _ in parts)] if blank else _numbers(cell)
            else:
                written.append("" if cell is None else cell)
        lines.append(written)
    return csv_text(headings, lines)


def _numbers(cell: Any) -> list[Any]:
    return ["" if value is None else value for value in (cell.value, cell.sd, cell.n, *cell.ends)]


def markdown_of(table: Table) -> str:
    cells = [[escaped(text) for text in row] for row in (shown_headings(table), *map(_texts, table.rows))]
    rule = ["---", *("---:" for _ in table.headings[1:])]
    lines = [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
    return (
        "\n".join([f"# {escaped(table.title)}", "", *lines, "", *(f"- {escaped(note)}" for note in shown_notes(table))])
        + "\n"
    )


def latex_of(table: Table, label: str) -> str:
    """Return a `table` environment, which needs \\usepackage{booktabs}."""
    rows = [" & ".join(map(_tex, row)) + r" \\" for row in (shown_headings(table), *map(_texts, table.rows))]
    notes = " ".join(_tex(f"{note}.") for note in shown_notes(table))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}}}",
            rf"\label{{tab:{label.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\\[1ex]\footnotesize {notes}"] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def shown_headings(table: Table) -> list[str]:
    """Return the headings, with the unit of columns shown in per cent."""
    percent = {
        column
        for row in table.rows
        for column, cell in enumerate(row)
        if isinstance(cell, TableFigure) and cell.percent
    }
    return [f"{name} (%)" if column in percent else name for column, name in enumerate(table.headings)]


def _texts(row: list[Cell]) -> list[str]:
    return [cell_text(cell) for cell in row]


def cell_text(cell: Cell) -> str:
    """Return the text of a cell: `61.2 ± 1.5` over seeds, `61.2 (55.0 to 67.4)` for one run with an interval."""
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    value = cell.shown(cell.value)
    if cell.sd is not None:
        return f"{value} ± {cell.shown(cell.sd)}"
    if cell.is_degenerate:
        return f"{value} ({MISSING})"
    if cell.low is not None and cell.high is not None:
        return f"{value} ({cell.shown(cell.low)} to {cell.shown(cell.high)})"
    return value


def shown_notes(table: Table) -> list[str]:
    """Return explanations of the table's signs, then its own notes."""
    figures = [cell for row in table.rows for cell in row if isinstance(cell, TableFigure) and cell.spreads]
    notes = list[str]()
    if any(cell.sd is not None for cell in figures):
        notes.append("± is the standard deviation over seeds; the CSV has the 95 % interval of the mean")
    if any(cell.is_degenerate for cell in figures):
        notes.append(f"({MISSING}): {NO_INTERVAL}")
    if any(cell.sd is None and cell.low is not None and not cell.is_degenerate for cell in figures):
        notes.append("brackets contain the 95 % interval over prompts of one run, whose spread over seeds is unknown")
    if any(cell.sd is None and cell.low is None for cell in figures):
        notes.append("a figure without ± or brackets is from one run: its spread is unknown")
    if any(cell is None for row in table.rows for cell in row):
        notes.append(f"{MISSING}: not measured, or not finished")
    return notes + table.notes


_TEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
_TEX |= {
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_TEX |= {"\n": " ", "|": r"\textbar{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)
