"""Tables, charts and speeches, prepared for the page's template."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property
from itertools import count, pairwise
from textwrap import shorten
from typing import Any

import numpy as np

from psychocounsel.blocks.kinds import Chart, Curve, ShownSpeech, SpeechBrowser
from psychocounsel.blocks.tables import (
    MISSING,
    NO_INTERVAL,
    Cell,
    Table,
    TableFigure,
    cell_text,
    shown_headings,
    shown_notes,
)

# Tables: rounded texts for readers, full values for sorting by a heading

_ROWS_BEFORE_FILTER = 12  # rows: a longer table gets a filter


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
        self.is_long = len(table.rows) > _ROWS_BEFORE_FILTER

    @cached_property
    def numeric(self) -> list[bool]:
        """One bool per column: True if all its cells are numbers or missing, and at least one is a number."""
        columns = [[cell for row in self.table.rows if (cell := row[n]) is not None] for n in range(len(self.headings))]
        return [bool(column) and all(_cell_number(cell) is not None for cell in column) for column in columns]

    @cached_property
    def rows(self) -> list[list[CellView]]:
        return [[self._view(cell, n) for n, cell in enumerate(row)] for row in self.table.rows]

    def _view(self, cell: Cell, column: int) -> CellView:
        number = _cell_number(cell) if self.numeric[column] else None
        value = number if number is not None else cell_text(cell) if cell is not None else None
        return CellView(cell_text(cell), value, _full_text(cell))


def _sentence(note: str) -> str:
    is_sign = len(note.split()[0].rstrip(":")) == 1 and not note.startswith("a ")  # `p is two-sided`
    return f"{note[:1] if is_sign else note[:1].upper()}{note[1:].rstrip('.')}."


def _cell_number(cell: Cell) -> float | None:
    """Return the cell's number, or None for texts and for values that are not finite, because those cannot be sorted."""
    try:
        number = cell.value if isinstance(cell, TableFigure) else float((cell or "").replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _full_text(cell: Cell) -> str:
    """Return a figure with as many digits as the CSV file has."""
    if not isinstance(cell, TableFigure):
        return ""
    parts = [f"{cell.value!r}"]
    if cell.sd is not None:
        parts.append(f"SD {cell.sd!r}")
    if cell.is_degenerate:
        parts.append(f"{MISSING}: {NO_INTERVAL}")
    elif cell.low is not None and cell.high is not None:
        parts.append(f"95 % interval {cell.low!r} to {cell.high!r}")
    if cell.n > 1:
        parts.append(f"{cell.n} runs")
    return ", ".join(parts)


# Thinning of long curves: it keeps the lowest and the highest point of each stretch, so every point shown is real

MOST_POINTS = 500  # points per curve on the page
_FEWEST_POINTS = 60
_POINT_BUDGET = 130_000  # points of all long curves together: about six megabytes


def points_allowed(lengths: Sequence[int]) -> int:
    """Return the points allowed per curve, 60 to 500: the page's budget divided by the number of long curves."""
    long = sum(length > _FEWEST_POINTS for length in lengths)
    return max(_FEWEST_POINTS, min(MOST_POINTS, _POINT_BUDGET // max(long, 1)))


def kept(y: Sequence[float], most: int) -> list[int]:
    """Return the indices of the points to show, in order, including the first and the last. With at most `most` points: all."""
    count = len(y)
    if count <= most:
        return list(range(count))
    values = np.asarray(y, dtype=float)
    low = np.where(np.isfinite(values), values, np.inf)
    high = np.where(np.isfinite(values), values, -np.inf)
    edges = np.linspace(1, count - 1, (most - 2) // 2 + 1).astype(int)
    places = {0, count - 1}
    for begin, end in pairwise(edges):
        places |= {int(begin + low[begin:end].argmin()), int(begin + high[begin:end].argmax())}
    return sorted(places)


# Charts: curves as JSON (long ones thinned), and their figures as a table

_MOST_TABLE_ROWS = 60  # a chart with more points gets a table with one row per curve
_MOST_NAMED = 6  # curves named in a chart's description


_SHORT = 2.0  # hours: axes of shorter runs are in minutes


def _in_minutes(chart: Chart) -> Chart:
    """Return the chart with its axes of hours in minutes, if no curve is long."""
    longest = {axis: max(max(curve.x[axis], default=0.0) for curve in chart.curves) for axis in chart.axes}
    short = {axis for axis, hours in longest.items() if axis.endswith("hours") and hours < _SHORT}

    def scaled(x: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
        minutes = {axis.replace("hours", "minutes"): [60 * hours for hours in x[axis]] for axis in x if axis in short}
        return {axis: values for axis, values in x.items() if axis not in short} | minutes

    return replace(chart, curves=[replace(curve, x=scaled(curve.x)) for curve in chart.curves]) if short else chart


def points_per_curve(charts: Iterable[Chart]) -> int:
    return points_allowed([len(curve.y) for chart in charts for curve in chart.curves])


def looks_of_groups(charts: Iterable[Chart]) -> dict[str, int]:
    """Number each group that appears in several charts, so that a setting keeps its colour and dash in the whole report."""
    shown = Counter(group for chart in charts for group in dict.fromkeys(map(_group, chart.curves)))
    return {group: number for number, group in enumerate(group for group, count in shown.items() if count > 1)}


def _group(curve: Curve) -> str:
    return curve.group or curve.title


class ChartView:
    """A chart prepared for the template: at most `most` points per curve; `looks` gives groups their colour and dash."""

    def __init__(self, chart: Chart, most: int, looks: Mapping[str, int]) -> None:
        self.chart = chart = _in_minutes(chart)
        self.places = [kept(curve.y, most) for curve in chart.curves]
        self.axes = chart.axes
        self.is_empty = not self.axes or not any(self.places)
        self.groups = list(dict.fromkeys(map(_group, chart.curves)))
        free = (number for number in count() if number not in {looks.get(group) for group in self.groups})
        self.looks = {group: looks[group] if group in looks else next(free) for group in self.groups}
        self.members = {group: self._members(group) for group in self.groups}
        self.smooths = chart.smooths and any(not curve.points for curve in chart.curves)

    def _members(self, group: str) -> list[Curve]:
        return [curve for curve in self.chart.curves if _group(curve) == group]

    @cached_property
    def data(self) -> dict[str, Any]:
        chart = self.chart
        return {
            "axes": self.axes,
            "y": chart.y_title,
            "ticks": list(chart.ticks),
            "diagonal": chart.diagonal,
            "lies_down": chart.lies_down,
            "reference": chart.reference,
            "no_interval": f"{MISSING} ({NO_INTERVAL})",
            "curves": [self._curve(curve, places) for curve, places in zip(chart.curves, self.places, strict=True)],
        }

    def _curve(self, curve: Curve, places: list[int]) -> dict[str, Any]:
        data: dict[str, Any] = {
            "title": curve.title,
            "group": self.groups.index(_group(curve)),
            "look": self.looks[_group(curve)],
            "x": {axis: _finite(curve.x[axis], places) for axis in self.axes},
            "y": _finite(curve.y, places),
        }
        if curve.low is not None and curve.high is not None:
            data |= {"low": _finite(curve.low, places), "high": _finite(curve.high, places)}
        if curve.labels is not None:
            data["labels"] = [curve.labels[place] for place in places]
        return data | ({"points": True} if curve.points else {})

    @property
    def description(self) -> str:
        """Description for screen readers. The numbers are in the table below the chart."""
        titles = [
            f"{group} ({len(self.members[group])})" if len(self.members[group]) > 1 else group for group in self.groups
        ]
        named = ", ".join(titles[:_MOST_NAMED]) + (
            f" and {len(titles) - _MOST_NAMED} more" if len(titles) > _MOST_NAMED else ""
        )
        over = f" over {self.axes[0]}" if self.axes else ""
        return f"Chart: {self.chart.title}. {self.chart.y_title}{over}; {named}. The table below holds its figures."

    @property
    def notes(self) -> list[str]:
        notes = list(self.chart.notes)
        if self.chart.reference is not None:
            notes.append(f"The dashed line is at {self.chart.reference:g}.")
        if self.chart.diagonal:
            notes.append("On the dashed line, both axes have the same value.")
        return notes + self._thinned() + self._gaps()

    def _thinned(self) -> list[str]:
        pairs = zip(self.chart.curves, self.places, strict=True)
        lengths = [(len(curve.y), len(places)) for curve, places in pairs if len(places) < len(curve.y)]
        if not lengths:
            return []
        whole, thinned = max(lengths)
        several = "up to " if len({length for length, _ in lengths}) > 1 else ""
        text = f"Each long curve is thinned from {several}{whole:,} to {thinned:,} points"
        smoothing = "; smoothing uses the points shown" if self.smooths else ""
        return [
            f"{text}: the lowest and the highest of each stretch{smoothing}. metrics.jsonl of each run has all points."
        ]

    def _gaps(self) -> list[str]:
        broken = [curve.title for curve in self.chart.curves if not all(map(math.isfinite, curve.y))]
        named = ", ".join(broken[:_MOST_NAMED]) + (" and others" if len(broken) > _MOST_NAMED else "")
        return [f"Values that are not finite leave gaps: {named}."] if broken else []

    @cached_property
    def table(self) -> TableView:
        """A row for each point if they are few, otherwise a row for each curve."""
        points = sum(len(curve.y) for curve in self.chart.curves)
        return TableView(self._points() if points <= _MOST_TABLE_ROWS else self._summary())

    def _points(self) -> Table:
        interval = any(curve.low is not None for curve in self.chart.curves)
        labelled = any(curve.labels is not None for curve in self.chart.curves)
        headings = ["curve", *self.axes, self.chart.y_title, *(["low", "high"] if interval else [])]
        rows = list[list[Cell]]()
        for curve in self.chart.curves:
            for place, y in enumerate(curve.y):
                row: list[Cell] = [curve.title, *(self._x(curve.x[axis][place]) for axis in self.axes), _figure(y)]
                if interval:
                    bounds = [None if bound is None else bound[place] for bound in (curve.low, curve.high)]
                    row += [
                        _figure(bound) if bound is not None and bounds[0] != bounds[1] else None for bound in bounds
                    ]
                rows.append(row + ([curve.labels[place] if curve.labels else None] if labelled else []))
        notes = [f"low and high {MISSING}: {NO_INTERVAL}"] if self._without_width() else []
        return Table(f"Figures of: {self.chart.title}", headings + (["point"] if labelled else []), rows, notes)

    def _without_width(self) -> bool:
        """Return True if a point has an interval without width."""
        ends = [
            (curve.low, curve.high) for curve in self.chart.curves if curve.low is not None and curve.high is not None
        ]
        return any(low == high for lows, highs in ends for low, high in zip(lows, highs, strict=True))

    def _x(self, value: float) -> Cell:
        """Return the name nearest to x if the axis has names, because curves are shifted a little to lie side by side."""
        ticks = self.chart.ticks
        near = round(value) if math.isfinite(value) else -1
        if ticks and 0 <= near < len(ticks):
            return ticks[near]
        return f"{value:,.0f}" if float(value).is_integer() else _figure(value)

    def _summary(self) -> Table:
        headings = ["curve", "points", "first", "last", "lowest", "highest"]
        rows = list[list[Cell]]()
        for curve in self.chart.curves:
            finite = [value for value in curve.y if math.isfinite(value)]
            ends = [curve.y[0], curve.y[-1]] if len(curve.y) else [math.nan, math.nan]
            values = [*ends, *((min(finite), max(finite)) if finite else (math.nan, math.nan))]
            rows.append([curve.title, str(len(curve.y)), *map(_figure, values)])
        return Table(f"{self.chart.y_title} of each curve: {self.chart.title}", headings, rows)


def _figure(value: float) -> Cell:
    return TableFigure(float(value), spreads=False) if math.isfinite(value) else None


def _finite(values: Sequence[float], places: list[int]) -> list[float | None]:
    """Return the values at these places, with None for values that are not finite, because JSON cannot hold them."""
    return [value if math.isfinite(value := values[place]) else None for place in places]


# Words of a reply that the first reply lacks

_WORDS = re.compile(r"\s+|[^\s]+")
_ALIKE = 0.2  # below this share of common words, nearly everything would be marked


def marked(first: str, other: str) -> list[tuple[str, bool]] | None:
    """Return `other` in pieces, each with True if it differs from `first`; None if almost no word is shared."""
    first_words, pieces = first.split(), _WORDS.findall(other)
    words = [(place, piece) for place, piece in enumerate(pieces) if not piece.isspace()]
    matcher = SequenceMatcher(None, first_words, [piece for _, piece in words], autojunk=False)
    if matcher.ratio() < _ALIKE:
        return None
    same = {
        words[place][0] for block in matcher.get_matching_blocks() for place in range(block.b, block.b + block.size)
    }
    return list(_stretches(pieces, same))


def _stretches(pieces: list[str], same: set[int]) -> Iterator[tuple[str, bool]]:
    """Yield neighbouring words joined if both differ or neither does. Space is marked only between differing words."""
    text, differs, space = "", False, ""
    for place, piece in enumerate(pieces):
        if piece.isspace():
            space = piece
            continue
        if (place not in same) == differs:
            text, space = text + space + piece, ""
            continue
        if differs:
            yield text, True
            text = space + piece
        else:
            if text or space:
                yield text + space, False
            text = piece
        differs, space = not differs, ""
    if text:
        yield text, differs
    if space:
        yield space, False


# Speeches with replies

_BEGINNING = 90  # characters of a speech shown in its closed line


@dataclass(frozen=True)
class ReplyView:
    """A reply cut into pieces, each with True if it differs from the first reply.

    If `apart`, almost no word is shared, so no piece is marked.
    """

    author: str
    pieces: list[tuple[str, bool]]
    apart: bool
    scores: list[tuple[str, str]]


@dataclass(frozen=True)
class SpeechView:
    """A speech. `beginning` is shown while the speech is closed; it is empty for a crisis."""

    speech: ShownSpeech
    beginning: str
    replies: list[ReplyView]


class BrowserView:
    """A `SpeechBrowser` prepared for the template: its speeches, and the topics and risks that filter them."""

    def __init__(self, browser: SpeechBrowser) -> None:
        self.speeches = [_speech(speech) for speech in browser.speeches]
        self.topics = sorted({speech.topic for speech in browser.speeches if speech.topic})
        self.risks = sorted({speech.risk for speech in browser.speeches if speech.risk})
        self.opened = next((view for view in self.speeches if not view.speech.crisis), None)
        self.compares = any(len(speech.replies) > 1 for speech in browser.speeches)


def _speech(speech: ShownSpeech) -> SpeechView:
    beginning = "" if speech.crisis else shorten(speech.speech, _BEGINNING, placeholder=" …")
    replies = []
    for place, reply in enumerate(speech.replies):
        pieces = [(reply.text, False)] if place == 0 else marked(speech.replies[0].text, reply.text)
        scores = [(name, f"{score:.4g}") for name, score in reply.scores.items()]
        replies.append(ReplyView(reply.author, pieces or [(reply.text, False)], pieces is None, scores))
    return SpeechView(speech, beginning, replies)
