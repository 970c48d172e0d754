"""Evaluations of a training run as points: progress by several measures, and all figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

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
    if config is None or "global_batch_size" not in config:
        return []
    processes = int(run.environment.get("processes", 1))
    before = (run.summary.get("metrics") or {}).get("before") or {}
    found = [EvaluationPoint(0, 0, 0.0, _kl(before, 0.0), before)] if before else []
    return [*found, *_later(run, int(config["global_batch_size"]), processes)]


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
