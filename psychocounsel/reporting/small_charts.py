"""`jobs status DIR --plot`: loss and reward of training runs as charts of characters, for login nodes."""

from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase

from psychocounsel.blocks.kinds import Chart, Curve
from psychocounsel.blocks.terminal import encodable
from psychocounsel.reporting.material import TRAINING, Material
from psychocounsel.reporting.reading.folders import read_material
from psychocounsel.reporting.sections.curves import curve_section, other_curve_section

# Charts

_ROWS = 12
_MOST_RUNS = 8  # more letters would be hard to tell apart
_TICKS = 5
_REWARDS = ("curve-rollout-reward", "curve-eval-reward", "curve-rewards-margin")  # the first that exists is drawn


def small_charts(folder: Path, width: int, encoding: str | None = None) -> str:
    """Return charts of the training runs in a folder, `width` characters wide; a single line if there is none.

    Losses of different algorithms are in separate charts, like those of the report.

    Raises:
        UserError: if the folder holds no run.
    """
    charts = [*_chosen(read_material([folder], shows_texts=False))]
    if not charts:
        return "nothing to plot: no training run here has written metrics yet"
    return encodable("\n\n".join(_drawn(chart, max(30, width)) for chart in charts), encoding)


def _chosen(material: Material) -> Iterator[Chart]:
    trainings = Material(material.folders, material.of(TRAINING))
    blocks = [*curve_section(trainings).blocks, *other_curve_section(trainings).blocks]
    charts = {block.name: block for block in blocks if isinstance(block, Chart)}
    yield from (chart for name, chart in charts.items() if name.startswith("curve-loss"))
    yield from [charts[name] for name in _REWARDS if name in charts][:1]


def _drawn(chart: Chart, width: int) -> str:
    """Return a chart with a letter for each run, and a legend of the letters."""
    from plotext import figure, terminal  # slow to import

    shown = chart.curves[:_MOST_RUNS]
    steps = [step for curve in shown for step in curve.x["steps"]]
    terminal.limit(width=False, height=False)  # otherwise plotext cuts the chart at the terminal's size
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, _ROWS)
    for letter, curve in zip(ascii_lowercase, shown, strict=False):
        figure.draw(figure.signal(*_points(curve), marker=letter).lines())
    figure.title(f"{chart.title} by step")
    places = _ticks(min(steps), max(steps))
    figure.ruler("x").ticks(places, [str(place) for place in places])
    lines = [line.rstrip() for line in figure.build().string(colorless=True).splitlines()]
    lines += [_cut(f"  {letter}  {curve.title}", width) for letter, curve in zip(ascii_lowercase, shown, strict=False)]
    omitted = len(chart.curves) - len(shown)
    lines += [f"  and {omitted} more (psychocounsel report shows all)"] if omitted else []
    return "\n".join(lines)


def _points(curve: Curve) -> tuple[list[float], list[float]]:
    return [*curve.x["steps"]], [*curve.y]


def _ticks(first: float, last: float) -> list[int]:
    """Return whole steps, evenly spread."""
    return sorted({round(first + (last - first) * place / (_TICKS - 1)) for place in range(_TICKS)})


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
