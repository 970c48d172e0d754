"""Cells, tables and curves made from figures, with all digits of figures.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from psychocounsel.blocks.kinds import Curve, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell, Table, TableFigure

Figures = Mapping[str, Any]
F = TypeVar("F", covariant=True)
NO_LIMIT = "no limit"  # no limit of length; a column that holds nothing else is dropped


@dataclass(frozen=True)
class Titled(Generic[F]):
    """Figures of a run, as its figures.json holds them, with its title. The terminal shows one run, without a title.

    `steps` holds the records of its steps (steps/*.json), by step.
    """

    title: str
    figures: F
    steps: Figures = field(default_factory=dict)


def warnings_of(runs: Sequence[tuple[str, Sequence[str]]]) -> list[Paragraph]:
    """Return each warning once, after the titles of its runs; without titles if all runs share it.

    `runs` holds each run's title and its warnings, as figures.json lists them.
    """
    whose: dict[str, list[str]] = {}
    for title, warnings in runs:
        for text in dict.fromkeys(line.removeprefix("warning: ") for line in warnings):
            whose.setdefault(text, []).append(title)
    return [
        Paragraph(text if len(titles) == len(runs) else f"{', '.join(titles)}: {text}", "warning")
        for text, titles in whose.items()
    ]


def cell(value: float | None, low: float | None = None, high: float | None = None, percent: bool = False) -> Cell:
    """Return a cell with an interval if both ends are known; None if the value is None."""
    if value is None:
        return None
    return TableFigure(value, None, *((low, high) if None not in (low, high) else (None, None)), 1, percent)


def exact(value: float | None, percent: bool = False) -> Cell:
    """Return a cell without an interval, for a p-value, a limit, a chance accuracy or a cost."""
    return None if value is None else TableFigure(value, percent=percent, spreads=False)


def named(figures: Figures, name: str, percent: bool = False) -> Cell:
    """Return the figure `name` with its interval `name_low`, `name_high`."""
    return cell(figures.get(name), figures.get(f"{name}_low"), figures.get(f"{name}_high"), percent)


def measured(figures: Figures | None, key: str = "value", percent: bool = False) -> Cell:
    """Return the figure `key` with the interval `low`, `high` of the same mapping."""
    return None if not figures else cell(figures.get(key), figures.get("low"), figures.get("high"), percent)


def spanned(value: float | None, interval: Sequence[float] | None, percent: bool = False) -> Cell:
    """Return a figure whose interval is given as a list."""
    low, high = interval or (None, None)
    return cell(value, low, high, percent)


def count(number: int | None) -> str | None:
    return None if number is None else str(number)


def counts(numbers: Mapping[str, int]) -> str:
    """Return `12 text, 3 refused`: the largest count first, zeros omitted."""
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number} {name}" for name, number in ranked if number) or "none"


def percent_text(figures: Figures, key: str = "accuracy") -> str:
    """Return `61.2 % (55.0 to 67.4)` for a sentence. The table has all digits."""
    if figures.get("low") is None or figures.get("high") is None or figures["low"] == figures["high"]:
        return f"{100 * figures[key]:.1f} % (no interval)"
    return f"{100 * figures[key]:.1f} % ({100 * figures['low']:.1f} to {100 * figures['high']:.1f})"


def report_table(
    name: str, title: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]], *notes: str
) -> list[ReportTable]:
    """Return a table without its empty columns; no table if there are no rows."""
    if not rows:
        return []
    shown = [place for place in range(len(headings)) if any(row[place] not in (None, "", NO_LIMIT) for row in rows)]
    table = Table(
        title, [headings[place] for place in shown], [[row[place] for place in shown] for row in rows], [*notes]
    )
    return [ReportTable(name, table)]


def words_limit(limit: int | None) -> str:
    """Return the name of a length limit in tables."""
    return NO_LIMIT if limit is None else f"at most {limit} words"


def limit_note(limit: int | None) -> str:
    """Return the length limit in words as the end of a sentence; "" without a limit."""
    return "" if limit is None else f" (replies of at most {limit} words)"


def name_in(title: str, name: str, several: bool, *details: str | None) -> str:
    """Return a curve's name: `name`, preceded by the run's title if several runs have curves."""
    text = ", ".join([name, *(detail for detail in details if detail and detail != NO_LIMIT)])
    return f"{title}: {text}" if several else text


def points(
    title: str, figures: Mapping[int, Figures], axis: str, number: int, total: int, key: str = "value"
) -> list[Curve]:
    """Return figures with intervals as points at named places. Curve `number` of `total` is shifted a little sideways.

    A figure without a value or an interval is omitted. Without any points there is no curve.
    """
    known = {place: point for place, point in figures.items() if None not in (point[key], point["low"], point["high"])}
    aside = (number - (total - 1) / 2) * min(0.15, 0.6 / total)
    value, low, high = ([point[end] for point in known.values()] for end in (key, "low", "high"))
    return [Curve(title, {axis: [place + aside for place in known]}, value, low, high, points=True)] if known else []
