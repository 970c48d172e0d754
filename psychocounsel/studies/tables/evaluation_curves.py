"""kind: curves. One row per evaluation of trainings: shows figures against the divergence, for over-optimisation.

curves: {kind: curves, rows: [weak, strong], columns: {trained on: eval/reward, other: eval/reward_tiny_2}}
"""

from collections.abc import Iterator, Mapping
from typing import Any

from psychocounsel.studies.tables.evaluation_points import EvaluationPoint, points_of
from psychocounsel.studies.tables.figures import over_seeds
from psychocounsel.studies.tables.study_runs import Runs, Setting, StudyRun, settings
from psychocounsel.studies.tables.table_formats import Cell, Table

KEYS = ("columns",)


def problems(layout: Mapping[str, Any]) -> Iterator[str]:
    """Yield mistakes in the layout of a table of this kind, one per line."""
    columns = layout.get("columns")
    if not isinstance(columns, Mapping) or not columns:
        yield "columns: must contain HEADING: METRIC, figures of evaluations during training (eval/reward)"
        return
    for heading, metric in columns.items():
        if not isinstance(metric, str) or not metric.startswith("eval/"):
            yield f"columns.{heading}: must be a figure of evaluations during training, as eval/reward"


def metrics(layout: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the figures named by a layout without mistakes, each with its place in the file."""
    return ((f"columns.{heading}", metric) for heading, metric in layout["columns"].items())


def table(runs: Runs, layout: Mapping[str, Any], title: str) -> Table:
    """Return the table of a layout without mistakes: one row per setting and step at which all its runs were evaluated."""
    columns: Mapping[str, str] = layout["columns"]
    rows = [row for setting in settings(runs, layout["rows"]) for row in _rows(setting, columns)]
    return Table(title, ["setting", "runs", "step", "nats", *columns], rows)


def _rows(setting: Setting[StudyRun], columns: Mapping[str, str]) -> Iterator[list[Cell]]:
    of_runs = [{point.steps: point for point in points_of(run)} for run in setting.finished]
    if not of_runs:
        yield [setting.title, setting.count, "", None, *(None for _ in columns)]
        return
    for step in sorted(set.intersection(*(set(points) for points in of_runs))):
        points = [points[step] for points in of_runs]
        nats = over_seeds([point.kl for point in points if point.kl is not None])
        yield [setting.title, setting.count, str(step), nats, *(_over(points, metric) for metric in columns.values())]


def _over(points: list[EvaluationPoint], metric: str) -> Cell:
    return over_seeds([value for point in points if (value := point.figures.get(metric)) is not None])
