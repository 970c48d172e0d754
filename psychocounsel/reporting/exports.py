"""The report's tables and charts as files: `report.csv`, LaTeX tables, and figures as PDF."""

import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

from psychocounsel.blocks.kinds import Chart, Curve, Report, ReportTable
from psychocounsel.blocks.tables import NO_INTERVAL, Cell, TableFigure, latex_of
from psychocounsel.reporting.page.views import kept
from psychocounsel.rundir.paths import ReportDir
from psychocounsel.storage.csv_tables import csv_text
from psychocounsel.storage.files import replacing, with_noun, write_atomically

# `report.csv`: one line for each cell of each table, with all digits

COLUMNS = ("section", "table", "line", "row", "column", "value", "sd", "n", "low", "high", "text")


def write_cells(report: Report, path: Path) -> None:
    """Write the cells of all tables. `line` counts a table's rows from 1; `row` is the text of the row's first cell.

    A figure fills value, sd, n, low and high (shares between 0 and 1). A text, or the reason why a figure has no interval,
    fills the last column. A missing cell leaves all of them empty.
    """
    tables = [(section.name, block) for section in report.sections for block in section.blocks]
    lines = (
        [name, block.name, *cells]
        for name, block in tables
        if isinstance(block, ReportTable)
        for cells in _table_lines(block)
    )
    write_atomically(path, csv_text(COLUMNS, lines))


def _table_lines(block: ReportTable) -> Iterator[list[Any]]:
    for number, row in enumerate(block.table.rows, 1):
        title = row[0] if isinstance(row[0], str) else ""
        for heading, cell in zip(block.table.headings, row, strict=True):
            yield [number, title, heading, *_cell_values(cell)]


def _cell_values(cell: Cell) -> list[Any]:
    if not isinstance(cell, TableFigure):
        return ["", "", "", "", "", cell or ""]
    parts = (cell.value, cell.sd, cell.n, *cell.ends)
    return [*("" if part is None else part for part in parts), NO_INTERVAL if cell.is_degenerate else ""]


# `tables/NAME.tex`


def write_tables(report: Report, files: ReportDir) -> None:
    """Write each table that has rows as a `table` environment, which needs the LaTeX package booktabs."""
    files.tables.mkdir()
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, ReportTable) and block.table.rows:
                write_atomically(files.table(block.name), latex_of(block.table, block.name), durable=False)


# `figures/NAME.pdf`: charts over their first axis, drawn by matplotlib (the extra `figures`)

_FIGURE_SIZE = (6.4, 4.0)  # inches
_FRAME, _ROW, _LINE = (
    1.1,
    0.35,
    0.15,
)  # height of a chart that lies down: its title and axis, each place, and its further lines
_MOST_POINTS, _FEWEST_POINTS = 500, 60  # points per curve: a printed figure cannot show more
_POINT_BUDGET = 20_000  # points of all curves of one figure
_NAME_WIDTH = 32  # characters of a line beside a chart that lies down; a name has at most three lines
_MOST_NAMED = 12  # groups named in a legend
_STYLES = ("-", "--", "-.", ":")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SETTINGS: Any = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],
    "font.size": 9,
    "pdf.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_figures(report: Report, files: ReportDir) -> list[str]:
    """Write each chart that has points. Return lines for the user: none, or how to install matplotlib."""
    charts = [block for section in report.sections for block in section.blocks if isinstance(block, Chart)]
    charts = [chart for chart in charts if chart.axes and any(len(curve.y) for curve in chart.curves)]
    if not charts:
        return []
    if find_spec("matplotlib") is None:
        return [
            f"{with_noun(len(charts), 'chart is', 'charts are')} not written as PDF: matplotlib is not installed; "
            "pip install 'psychocounsel[figures]'"
        ]
    import matplotlib

    files.figures.mkdir()
    with matplotlib.rc_context(_SETTINGS):
        for chart in charts:
            _write_figure(chart, files.figure(chart.name))
    return []


def _in_lines(name: str) -> str:
    return fill(shorten(name, 3 * _NAME_WIDTH, placeholder=" ..."), _NAME_WIDTH)


def _write_figure(chart: Chart, path: Path) -> None:
    from matplotlib.figure import Figure

    width, height = _FIGURE_SIZE
    if chart.lies_down:
        height = _FRAME + sum(_ROW + _LINE * _in_lines(tick).count("\n") for tick in chart.ticks)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes, axis = figure.add_subplot(), chart.axes[0]
    groups: dict[str, list[Curve]] = {}
    for curve in chart.curves:
        groups.setdefault(curve.group or curve.title, []).append(curve)
    most = max(_FEWEST_POINTS, min(_MOST_POINTS, _POINT_BUDGET // len(chart.curves)))
    handles = [
        _draw(axes, curves, axis, number, most, chart.lies_down) for number, curves in enumerate(groups.values())
    ]
    axes.autoscale_view()
    _add_lines(axes, chart)
    axes.set_title(_plain(chart.title), fontsize=10)
    if chart.lies_down:
        axes.set_xlabel(_plain(chart.y_title))
        axes.set_yticks(range(len(chart.ticks)), [_in_lines(_plain(tick)) for tick in chart.ticks])
        axes.set_ylim(len(chart.ticks) - 0.5, -0.5)
    else:
        axes.set_ylabel(_plain(chart.y_title))
        axes.set_xlabel("" if chart.ticks else _plain(axis))
        if chart.ticks:
            axes.set_xticks(range(len(chart.ticks)), [_plain(tick) for tick in chart.ticks], rotation=30, ha="right")
    _add_legend(figure, handles, [*groups])
    with replacing(path) as draft:
        figure.savefig(
            draft, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": "psychocounsel"}
        )


def _draw(axes: Any, curves: Sequence[Curve], axis: str, number: int, most: int, lies_down: bool) -> Any:
    """Draw the curves of a group in one colour, with at most `most` points each. Return the group's legend handle."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    color, mark = f"C{number % 10}", _MARKS[number // 10 % len(_MARKS)]
    style: Any = _STYLES[number // 10 % len(_STYLES)]
    lines = list[list[tuple[float, float]]]()
    for curve in curves:
        places = kept(curve.y, most)
        x, y = _numbers(curve.x[axis], places), _numbers(curve.y, places)
        ends = None
        if curve.low is not None and curve.high is not None:
            ends = _numbers(curve.low, places), _numbers(curve.high, places)
        if curve.points:
            _draw_points(axes, x, y, ends, color, mark, lies_down)
            continue
        lines.append([*zip(x, y, strict=True)])
        if ends is not None:
            axes.fill_between(x, *ends, color=color, alpha=0.15, linewidth=0)
    if not lines:
        return Line2D([], [], color=color, linestyle="none", marker=mark, markersize=4.5)
    axes.add_collection(LineCollection(lines, colors=color, linestyles=style, linewidths=1.2))
    return Line2D([], [], color=color, linestyle=style, linewidth=1.2)


def _draw_points(
    axes: Any,
    x: list[float],
    y: list[float],
    ends: tuple[list[float], list[float]] | None,
    color: str,
    mark: str,
    lies_down: bool,
) -> None:
    style: dict[str, Any] = {"color": color, "linestyle": "none", "marker": mark, "markersize": 4.5}
    places = (y, x) if lies_down else (x, y)
    if ends is None:
        axes.plot(*places, **style)
        return
    below = [max(value - end, 0.0) for value, end in zip(y, ends[0], strict=True)]
    above = [max(end - value, 0.0) for value, end in zip(y, ends[1], strict=True)]
    axes.errorbar(*places, **{"xerr" if lies_down else "yerr": [below, above]}, elinewidth=1, capsize=2, **style)


def _add_lines(axes: Any, chart: Chart) -> None:
    grey = {"color": "0.5", "linestyle": "--", "linewidth": 0.8, "zorder": 0}
    if chart.diagonal:
        axes.axline((0, 0), slope=1, **grey)
    if chart.reference is not None:
        (axes.axvline if chart.lies_down else axes.axhline)(chart.reference, **grey)


def _add_legend(figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Add a legend with one entry per group. A single group needs no legend; of many groups the first 12 are named."""
    if len(names) < 2:
        return
    remark = f"and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else None
    shown = [_plain(name) for name in names[:_MOST_NAMED]]
    style = {"fontsize": 7, "frameon": False, "title": remark, "title_fontsize": 7}
    figure.legend(handles[:_MOST_NAMED], shown, loc="outside lower center", ncols=2, **style)


def _plain(text: str) -> str:
    """Return the text with dollar signs escaped, because matplotlib reads text between dollars as mathematics."""
    return text.replace("$", r"\$")


def _numbers(values: Sequence[float], places: Sequence[int]) -> list[float]:
    return [float(value) if (value := values[place]) is not None else math.nan for place in places]
