"""kind: nodes. Speed of training by nodes: tokens per second, and efficiency relative to the fewest GPUs.

speed: {kind: nodes, rows: [one, two, four]}
"""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from psychocounsel.blocks.tables import Cell, Table, TableFigure
from psychocounsel.studies.tables.runs import Runs, Setting, StudyRun, over_seeds, settings

KEYS = ()
_WARM_UP = 2  # steps in which kernels are compiled and memory is allocated


def problems(layout: Mapping[str, Any]) -> Iterator[str]:
    """Yield no mistakes, because a table of this kind has no keys of its own."""
    return iter(())


def metrics(layout: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield no figures, because every training measures speed."""
    return iter(())


def table(runs: Runs, layout: Mapping[str, Any], title: str) -> Table:
    """Return the table of a layout without mistakes.

    Tokens per second are the median over steps after the first two, over all processes. The efficiency is tokens per second
    and process, divided by that of the setting with the fewest processes.
    """
    measured = [(setting, _first(setting, "processes"), _speed(setting)) for setting in settings(runs, layout["rows"])]
    known = [(processes, speed) for _, processes, speed in measured if processes and speed]
    fewest = min(known, key=lambda pair: pair[0], default=None)
    rows = list[list[Cell]]()
    for setting, processes, speed in measured:
        efficiency = None
        if fewest and processes and speed:
            efficiency = TableFigure(speed.value / processes / (fewest[1].value / fewest[0]), percent=True)
        nodes = len(_first(setting, "nodes") or [])
        rows.append([setting.title, setting.count, str(nodes or ""), str(processes or ""), speed, efficiency])
    headings = ["setting", "runs", "nodes", "processes", "tokens/s", "efficiency"]
    return Table(title, headings, rows, [f"tokens/s: the median over steps after the first {_WARM_UP}"])


def _speed(setting: Setting[StudyRun]) -> TableFigure | None:
    return over_seeds([speed for run in setting.finished if (speed := _of_run(run)) is not None])


def _of_run(run: StudyRun) -> float | None:
    speeds = [line["tokens_per_second"] for line in run.lines if "tokens_per_second" in line][_WARM_UP:]
    return median(speeds) if speeds else None


def _first(setting: Setting[StudyRun], key: str) -> Any:
    return next((run.environment[key] for run in setting.finished if key in run.environment), None)
