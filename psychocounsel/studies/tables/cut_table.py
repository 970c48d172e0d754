"""kind: cuts. Trainings compared where they have spent the same: at equal prompts, optimizer steps, GPU-hours, or KL.

    equal: {kind: cuts, rows: [ppo, online_dpo], metric: eval/reward, at: {steps: [10, 20], kl: [5]}}

Each figure lies on the line between two evaluations of a run. A run that never came so far, or measured no KL, has none.
"""

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from psychocounsel.studies.tables.evaluation_points import AXES, crossing, points_of
from psychocounsel.studies.tables.figures import TableFigure, is_share, over_seeds
from psychocounsel.studies.tables.study_runs import Runs, Setting, StudyRun, settings
from psychocounsel.studies.tables.table_formats import Cell, Table

KEYS = ("metric", "at", "percent")
_TITLES = {"steps": "steps", "prompts": "prompts", "gpu_hours": "GPU-hours", "kl": "nats"}
_UNMEASURED = "not measured"


def problems(layout: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with such a table in a study's file, a line each."""
    if not isinstance(layout.get("metric"), str) or not layout["metric"].startswith("eval/"):
        yield "metric: is a figure of evaluations while training, as eval/reward"
    at = layout.get("at")
    if not isinstance(at, Mapping) or not at or set(at) - set(AXES):
        yield f"at: holds {', '.join(AXES)}, each with a list of numbers"
        return
    for axis, places in at.items():
        if not isinstance(places, list) or not places or not all(isinstance(place, Real) for place in places):
            yield f"at.{axis}: is a list of numbers"


def metrics(layout: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The figure that a layout without problems names, with its place."""
    return iter([("metric", layout["metric"])])


def table(runs: Runs, layout: Mapping[str, Any], title: str) -> Table:
    """The table of a layout without problems."""
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
            "GPU-hours: the time of the steps that a run kept, replies and rewards of rounds included, times the processes of "
            "its last attempt; without GPUs, hours of processes. Not counted: evaluations, checkpoints, loading, steps that "
            "were taken again after a stop, and GPUs of servers"
        )
    if short:
        notes.append("not reached: so many of the setting's runs have no evaluation at or beyond this place")
    if unmeasured:
        notes.append("not measured: as in algorithms without a reference model, which have no divergence")
    return Table(title, headings, rows, notes)


def _cell(setting: Setting[StudyRun], axis: str, place: float, metric: str, percent: bool) -> TableFigure | str | None:
    """Over all runs of a setting; where some came so far and others did not, a mean would be of another set of runs."""
    points = [points_of(run) for run in setting.finished]
    places = [each.at(axis) for run in points for each in run if each.steps]
    if places and all(each is None for each in places):
        return _UNMEASURED
    found = [crossing(each, axis, place, metric) for each in points]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return f"not reached ({len(found) - len(values)} of {len(found)})"
    return over_seeds(values, percent, is_share(metric))
