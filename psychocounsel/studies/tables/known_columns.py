"""Check that the runs of a study will report the figures that its tables name, before anything runs."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from omegaconf import DictConfig

from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.sections.figure_names import NOTHING_HELD_OUT, figures_of
from psychocounsel.studies.plan import PlannedStage
from psychocounsel.studies.study_file import Study
from psychocounsel.studies.tables import KINDS, layouts

_OF_TRAINING = ("step",)  # in addition to the figures of its best and last evaluation
_WHEN = ("before", "best", "last")


def unknown_figures(study: Study, planned: Sequence[PlannedStage]) -> Iterator[str]:
    """Yield a line for each figure that no run of a table's rows will report. The layouts must have no other mistakes.

    Figures are not checked if they are known only after a run, or if a mistake hides runs.
    """
    cells = {each.name: [cell.job.config for cell in each.cells] for each in planned}
    for name, layout in layouts(study).items():
        rows = layout["rows"]
        stages = [*(rows if isinstance(rows, list) else rows.values())]
        known = _known([config for stage in stages for config in cells.get(stage, [])])
        if known is None or not all(cells.get(stage) for stage in stages):
            continue
        for place, metric in KINDS[layout.get("kind", "runs")].metrics(layout):
            if not any(fnmatchcase(_plain(metric), each) for each in known):
                yield f"table.{name}.{place}: {metric}: {_said(metric, known)}"


def _known(configs: Sequence[DictConfig]) -> list[str] | None:
    """Return the figures that any of these runs will report; None if they are unknown for one run."""
    found: dict[str, Any] = {}
    for config in configs:
        names = figures_of(config)
        if names is None:
            return None
        found |= dict.fromkeys([*names, *(_OF_TRAINING if names and "algo" in config else ())])
    return [*found]


def _plain(metric: str) -> str:
    """Return a figure's name without the prefix of its evaluation, as in last:eval/loss."""
    when, _, name = metric.rpartition(":")
    return name if when in _WHEN else metric


def _said(metric: str, known: Sequence[str]) -> str:
    if not known:
        return NOTHING_HELD_OUT
    near = suggestion(_plain(metric), [*known])
    near = f"; {near}" if near.startswith("did you") else ""
    return f"no row will have such a figure{near} (there will be {', '.join(known)})"
