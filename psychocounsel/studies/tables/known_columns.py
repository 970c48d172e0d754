"""Check that the runs of a study will report the figures that its tables name, before anything runs."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from psychocounsel.cluster.job import Job
from psychocounsel.settings.command import NOTHING_HELD_OUT
from psychocounsel.settings.schema import suggestion
from psychocounsel.studies.plan import PlannedStage
from psychocounsel.studies.study_file import Study
from psychocounsel.studies.tables import KINDS, layouts

_OF_TRAINING = ("step",)  # in addition to the figures of its best and last evaluation
_WHEN = ("before", "best", "last")


def unknown_figures(study: Study, planned: Sequence[PlannedStage]) -> Iterator[str]:
    """Yield a line for each figure that no run of a table's rows will report. The layouts must have no other mistakes.

    Figures are not checked if they are known only after a run, or if a mistake hides runs.
    """
    cells = {stage.name: [cell.job for cell in stage.cells] for stage in planned}
    for name, layout in layouts(study).items():
        rows = layout["rows"]
        stages = [*(rows if isinstance(rows, list) else rows.values())]
        known = _known([job for stage in stages for job in cells.get(stage, [])])
        if known is None or not all(cells.get(stage) for stage in stages):
            continue
        for place, metric in KINDS[layout.get("kind", "runs")].metrics(layout):
            if not any(fnmatchcase(_plain(metric), pattern) for pattern in known):
                yield f"table.{name}.{place}: {metric}: {_why_unknown(metric, known)}"


def _known(jobs: Sequence[Job]) -> list[str] | None:
    """Return the figures that any of these runs will report; None if they are unknown for one run."""
    figures: dict[str, Any] = {}
    for job in jobs:
        names = job.command.figure_names(job.config)
        if names is None:
            return None
        figures |= dict.fromkeys([*names, *(_OF_TRAINING if names and job.command.trains else ())])
    return [*figures]


def _plain(metric: str) -> str:
    """Return a figure's name without the prefix of its evaluation, as in last:eval/loss."""
    when, _, name = metric.rpartition(":")
    return name if when in _WHEN else metric


def _why_unknown(metric: str, known: Sequence[str]) -> str:
    if not known:
        return NOTHING_HELD_OUT
    near = suggestion(_plain(metric), [*known])
    near = f"; {near}" if near.startswith("did you") else ""
    return f"no row will have such a figure{near} (there will be {', '.join(known)})"
