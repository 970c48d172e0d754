"""kind: curves. One row per evaluation of trainings: shows figures against the divergence, for over-optimisation.

curves: {kind: curves, rows: [weak, strong], columns: {trained on: eval/reward, other: eval/reward_tiny_2}}
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from psychocounsel.blocks.tables import Cell, Table
from psychocounsel.studies.tables.runs import Runs, Setting, StudyRun, over_seeds, settings

# Evaluations of a training as points.

_EVALUATION = "eval/"
_KL = "eval/kl"


@dataclass(frozen=True)
class EvaluationPoint:
    """One evaluation of a run.

    Attributes:
        steps: optimizer steps. prompts: `steps` times `global_batch_size`, including repeated prompts.
        gpu_hours: hours of its steps times the number of processes of its last attempt (one GPU each, if there are GPUs).
            Steps include replies and rewards of the rounds. Evaluations, checkpoints, loading, steps repeated
            after a stop, and servers are not counted, so that the frequency of evaluations and stops does not matter.
        kl: nats per reply from the reference; None if it was not measured.
        figures: every `eval/...` figure.
    """

    steps: int
    prompts: int
    gpu_hours: float
    kl: float | None
    figures: dict[str, float]

    def at(self, axis: str) -> float | None:
        """Return the point's coordinate on one of AXES."""
        value: float | None = getattr(self, axis)
        return value


AXES = ("steps", "prompts", "gpu_hours", "kl")


class TrainedRun(Protocol):
    """A run from which points are made."""

    @property
    def config(self) -> Any: ...

    @property
    def environment(self) -> Mapping[str, Any]: ...

    @property
    def summary(self) -> Mapping[str, Any]: ...

    @property
    def lines(self) -> Sequence[Mapping[str, Any]]: ...


def points_of(run: TrainedRun) -> list[EvaluationPoint]:
    """Return the evaluations of a run in order, including the one before training; empty for a run without a configuration."""
    config = run.config
    if config is None or config.get("global_batch_size") is None:
        return []
    processes = int(run.environment.get("processes", 1))
    before = (run.summary.get("metrics") or {}).get("before") or {}
    first = [EvaluationPoint(0, 0, 0.0, _kl(before, 0.0), before)] if before else []
    return [*first, *_later(run, int(config["global_batch_size"]), processes)]


def _later(run: TrainedRun, batch: int, processes: int) -> Iterator[EvaluationPoint]:
    seconds = 0.0
    names: dict[tuple[str, ...], list[str]] = {}  # by the keys of a line, because most lines have the same keys
    for line in run.lines:
        seconds += line.get("step_seconds", 0.0)
        keys = tuple(line)
        if keys not in names:
            names[keys] = [key for key in keys if key.startswith(_EVALUATION)]
        if names[keys]:
            figures = {key: line[key] for key in names[keys]}
            step = int(line["step"])
            yield EvaluationPoint(step, step * batch, seconds * processes / 3600, _kl(figures, None), figures)


def _kl(figures: dict[str, float], otherwise: float | None) -> float | None:
    """Return the divergence; before training it is 0 by definition, even if not measured."""
    return figures.get(_KL, otherwise)


def crossing(points: list[EvaluationPoint], axis: str, place: float, metric: str) -> float | None:
    """Return the figure `metric` where the run first reaches `place` on `axis`, interpolated linearly between two evaluations.

    None if the run never reached it, because nothing is extrapolated.
    """
    known = [
        (x, point.figures[metric])
        for point in points
        if (x := point.at(axis)) is not None and point.figures.get(metric) is not None
    ]
    for (x0, y0), (x1, y1) in pairwise(known):
        if min(x0, x1) <= place <= max(x0, x1):
            return y0 if x0 == x1 else y0 + (y1 - y0) * (place - x0) / (x1 - x0)
    return None


# The table.

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
    return Table(title, ["setting", "runs", "step", "nats", *map(str, columns)], rows)


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
