"""`figures/NAME.pdf`: the charts of the report, over their first axis, by matplotlib (the extra `figures`)."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from psychocounsel.reporting.blocks import Chart, Curve, Report
from psychocounsel.reporting.page.thinning import kept
from psychocounsel.rundir.paths import ReportDir
from psychocounsel.storage.files import replacing

_SIZE = (6.4, 4.0)  # inches
_MOST_POINTS = 500  # of a curve: more than a printed figure can show
_MOST_NAMED = 12  # groups in a legend
_STYLES = ("-", "--", "-.", ":")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SETTINGS: Any = {"font.size": 9, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False}


def write_figures(report: Report, files: ReportDir) -> list[str]:
    """Write each chart that has points; returns what to tell the user: nothing, or how matplotlib is installed."""
    charts = [block for section in report.sections for block in section.blocks if isinstance(block, Chart)]
    charts = [chart for chart in charts if chart.axes and any(len(curve.y) for curve in chart.curves)]
    if not charts:
        return []
    if find_spec("matplotlib") is None:
        return [
            f"{len(charts)} charts are not written as PDF: matplotlib is not installed; "
            "pip install -c constraints.txt -e '.[figures]'"
        ]
    import matplotlib

    files.figures.mkdir()
    with matplotlib.rc_context(_SETTINGS):
        for chart in charts:
            _write(chart, files.figure(chart.name))
    return []


def _write(chart: Chart, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes, axis = figure.add_subplot(), chart.axes[0]
    groups = list(dict.fromkeys(curve.group or curve.title for curve in chart.curves))
    for curve in chart.curves:
        _draw(axes, curve, axis, groups.index(curve.group or curve.title))
    _add_lines(axes, chart)
    axes.set_title(_plain(chart.title), fontsize=10)
    axes.set_ylabel(_plain(chart.y_title))
    if chart.ticks:
        axes.set_xticks(range(len(chart.ticks)), [_plain(tick) for tick in chart.ticks], rotation=30, ha="right")
    else:
        axes.set_xlabel(_plain(axis))
    _add_legend(axes, groups)
    with replacing(path) as draft:
        figure.savefig(
            draft, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": "psychocounsel"}
        )


def _draw(axes: Any, curve: Curve, axis: str, number: int) -> None:
    """A curve, or points, in the colour of its group; curves of a group that were drawn before have its name already."""
    places = kept(curve.y, _MOST_POINTS)
    x, y = _numbers(curve.x[axis], places), _numbers(curve.y, places)
    style: dict[str, Any] = {"color": f"C{number % 10}", "label": f"group {number}"}
    if curve.points:
        style |= {"linestyle": "none", "marker": _MARKS[number // 10 % len(_MARKS)], "markersize": 4.5}
    else:
        style |= {"linestyle": _STYLES[number // 10 % len(_STYLES)], "linewidth": 1.2}
    if curve.low is None or curve.high is None:
        axes.plot(x, y, **style)
        return
    low, high = _numbers(curve.low, places), _numbers(curve.high, places)
    if curve.points:
        ends = [
            [value - end for value, end in zip(y, low, strict=True)],
            [end - value for value, end in zip(y, high, strict=True)],
        ]
        axes.errorbar(x, y, yerr=[[max(each, 0.0) for each in side] for side in ends], elinewidth=1, capsize=2, **style)
    else:
        axes.plot(x, y, **style)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _add_lines(axes: Any, chart: Chart) -> None:
    grey = {"color": "0.5", "linestyle": "--", "linewidth": 0.8, "zorder": 0}
    if chart.diagonal:
        axes.axline((0, 0), slope=1, **grey)
    if chart.reference is not None:
        axes.axhline(chart.reference, **grey)


def _add_legend(axes: Any, groups: Sequence[str]) -> None:
    """Each group once; a single one needs no name, and of many the first are named."""
    if len(groups) < 2:
        return
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    shown = [
        (handles[f"group {number}"], _plain(name)) for number, name in enumerate(groups) if f"group {number}" in handles
    ]
    more = [f"and {len(shown) - _MOST_NAMED} more"] if len(shown) > _MOST_NAMED else []
    handle, names = zip(*shown[:_MOST_NAMED], strict=True)
    axes.legend(handle, names, fontsize=7, frameon=False, title=more[0] if more else None, title_fontsize=7)


def _plain(text: str) -> str:
    """Matplotlib reads what stands between dollars as mathematics."""
    return text.replace("$", r"\$")


def _numbers(values: Sequence[float], places: Sequence[int]) -> list[float]:
    return [float(value) if (value := values[place]) is not None else math.nan for place in places]
