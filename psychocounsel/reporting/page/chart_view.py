"""A chart as the page draws it: curves as JSON (long ones thinned), and their figures as a table."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import Any

from psychocounsel.reporting.blocks import Chart, Curve
from psychocounsel.reporting.page import thinning
from psychocounsel.reporting.page.table_view import TableView
from psychocounsel.studies.tables.formats import Cell, Table
from psychocounsel.studies.tables.runs import TableFigure

_ROWS = 60  # a chart with more points gets a table with one row per curve
_NAMED = 6  # curves named in a chart's description


def points_per_curve(charts: Iterable[Chart]) -> int:
    return thinning.points_per_curve([len(curve.y) for chart in charts for curve in chart.curves])


def looks_of_groups(charts: Iterable[Chart]) -> dict[str, int]:
    """Number each group that appears in several charts, so that a setting keeps its colour and dash in the whole report."""
    shown = Counter(group for chart in charts for group in dict.fromkeys(map(_group, chart.curves)))
    return {group: number for number, group in enumerate(group for group, count in shown.items() if count > 1)}


def _group(curve: Curve) -> str:
    return curve.group or curve.title


class ChartView:
    """A chart prepared for the template: at most `most` points per curve; `looks` gives groups their colour and dash."""

    def __init__(self, chart: Chart, most: int, looks: Mapping[str, int]) -> None:
        self.chart = chart
        self.places = [thinning.kept(curve.y, most) for curve in chart.curves]
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
            "reference": chart.reference,
            "curves": [self._curve(curve, kept) for curve, kept in zip(chart.curves, self.places, strict=True)],
        }

    def _curve(self, curve: Curve, places: list[int]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "title": curve.title,
            "group": self.groups.index(_group(curve)),
            "look": self.looks[_group(curve)],
            "x": {axis: _finite(curve.x[axis], places) for axis in self.axes},
            "y": _finite(curve.y, places),
        }
        if curve.low is not None and curve.high is not None:
            found |= {"low": _finite(curve.low, places), "high": _finite(curve.high, places)}
        if curve.labels is not None:
            found["labels"] = [curve.labels[place] for place in places]
        return found | ({"points": True} if curve.points else {})

    @property
    def description(self) -> str:
        """Description for screen readers. The numbers are in the table below the chart."""
        titles = [
            f"{group} ({len(self.members[group])})" if len(self.members[group]) > 1 else group for group in self.groups
        ]
        named = ", ".join(titles[:_NAMED]) + (f" and {len(titles) - _NAMED} more" if len(titles) > _NAMED else "")
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
        lengths = [(len(curve.y), len(kept)) for curve, kept in pairs if len(kept) < len(curve.y)]
        if not lengths:
            return []
        of, to = max(lengths)
        several = "up to " if len({each for each, _ in lengths}) > 1 else ""
        said = f"Each long curve is thinned from {several}{of:,} to {to:,} points: the lowest and the highest of each stretch"
        smoothing = "; smoothing uses the points shown" if self.smooths else ""
        return [f"{said}{smoothing}. metrics.jsonl of each run has all points."]

    def _gaps(self) -> list[str]:
        broken = [curve.title for curve in self.chart.curves if not all(map(math.isfinite, curve.y))]
        named = ", ".join(broken[:_NAMED]) + (" and others" if len(broken) > _NAMED else "")
        return [f"Values that are not finite leave gaps: {named}."] if broken else []

    @cached_property
    def table(self) -> TableView:
        """A row for each point if they are few, otherwise a row for each curve."""
        points = sum(len(curve.y) for curve in self.chart.curves)
        return TableView(self._points() if points <= _ROWS else self._summary())

    def _points(self) -> Table:
        interval = any(curve.low is not None for curve in self.chart.curves)
        labelled = any(curve.labels is not None for curve in self.chart.curves)
        headings = ["curve", *self.axes, self.chart.y_title, *(["low", "high"] if interval else [])]
        rows = list[list[Cell]]()
        for curve in self.chart.curves:
            for place, y in enumerate(curve.y):
                row: list[Cell] = [curve.title, *(self._x(curve.x[axis][place]) for axis in self.axes), _figure(y)]
                if interval:
                    row += [_figure(of[place]) if of is not None else None for of in (curve.low, curve.high)]
                rows.append(row + ([curve.labels[place] if curve.labels else None] if labelled else []))
        return Table(f"Figures of: {self.chart.title}", headings + (["point"] if labelled else []), rows)

    def _x(self, value: float) -> Cell:
        """Return the name nearest to x if the axis has names, because curves are shifted a little to lie side by side."""
        ticks = self.chart.ticks
        near = round(value) if math.isfinite(value) else -1
        return ticks[near] if ticks and 0 <= near < len(ticks) else _figure(value)

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
