"""kind: cuts. Compares trainings at equal cost: at equal prompts, optimizer steps, GPU-hours, or KL.

    equal: {kind: cuts, rows: [ppo, online_dpo], metric: eval/reward, at: {steps: [10, 20], kl: [5]}}

Figures are interpolated linearly between two evaluations of a run. A run that never got so far, or measured no KL, has none.
"""

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from psychocounsel.blocks.tables import Cell, Table, TableFigure
from psychocounsel.studies.tables.curve_table import AXES, crossing, points_of
from psychocounsel.studies.tables.runs import Runs, Setting, StudyRun, is_share, over_seeds, settings

KEYS = ("metric", "at", "percent")
_TITLES = {"steps": "steps", "prompts": "prompts", "gpu_hours": "GPU-hours", "kl": "nats"}
_UNMEASURED = "not measured"


def problems(layout: Mapping[str, Any]) -> Iterator[str]:
    """Yield mistakes in the layout of a table of this kind, one per line."""
    if not isinstance(layout.get("metric"), str) or not layout["metric"].startswith("eval/"):
        yield "metric: must be a figure of evaluations during training, as eval/reward"
    at = layout.get("at")
    if not isinstance(at, Mapping) or not at or set(at) - set(AXES):
        yield f"at: must contain {', '.join(AXES)}, each with a list of numbers"
        return
    for axis, places in at.items():
        if not isinstance(places, list) or not places or not all(isinstance(place, Real) for place in places):
            yield f"at.{axis}: is a list of numbers"


def metrics(layout: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the figure named by a layout without mistakes, with its place in the file."""
    return iter([("metric", layout["metric"])])


def table(runs: Runs, layout: Mapping[str, Any], title: str) -> Table:
    """Return the table of a layout without mistakes."""
    cuts = [(axis, float(place)) for axis, places in layout["at"].items() for place in places]
    rows = list[list[Cell]]()
    short = unmeasured = False
    for setting in settings(runs, layout["rows"]):
        cells = [_cell(setting, axis, place, layout["metric"], bool(layout.get("percent"))) for axis, place in cuts]
        short |= any(isinstance(cell, str) and cell != _UNMEASURED for cell in cells)
        unmeasured |= _UNMEASURED in cells
        rows.append([setting.title, setting.count, *cells])
    headings = ["setting", "runs", *(f"{place:g} {_TITLES[axis]}" for axis, place in cuts)]
    notes = [f"{layout['metric']}, linear between a run's evaluations"]
    if any(axis == "gpu_hours" for axis, _ in cuts):
        notes.append(
            "GPU-hours: the time of a run's kept steps (with replies and rewards of rounds) times the number of processes of "
            "its last attempt; without GPUs, process hours. Not counted: evaluations, checkpoints, loading, steps that "
            "were repeated after a stop, and GPUs of servers"
        )
    if short:
        notes.append("not reached: number of the setting's runs without an evaluation at or beyond this value")
    if unmeasured:
        notes.append("not measured: for instance in algorithms without a reference model, which have no divergence")
    return Table(title, headings, rows, notes)


def _cell(setting: Setting[StudyRun], axis: str, place: float, metric: str, percent: bool) -> TableFigure | str | None:
    """Return the figure over all runs of a setting, or `not reached`, or `not measured`.

    If only some runs reached the value, there is no mean, because it would cover other runs than the other columns do.
    """
    points = [points_of(run) for run in setting.finished]
    places = [point.at(axis) for run in points for point in run if point.steps]
    if places and all(coordinate is None for coordinate in places):
        return _UNMEASURED
    crossings = [crossing(run_points, axis, place, metric) for run_points in points]
    values = [value for value in crossings if value is not None]
    if len(values) < len(crossings):
        return f"not reached ({len(crossings) - len(values)} of {len(crossings)})"
    return over_seeds(values, percent, is_share(metric))
