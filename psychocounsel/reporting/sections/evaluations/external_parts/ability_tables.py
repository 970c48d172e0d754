"""Table of general ability: results of lm-eval, and the loss that training caused."""

from collections.abc import Iterator, Sequence
from typing import Any

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import cell, count, exact, report_table, spanned
from psychocounsel.studies.tables.formats import Cell

_WORSE = {True: "worse: the whole interval is below 0", False: "no loss shown", None: ""}


def ability_tables(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    headings = ["evaluation", "contestant", "task", "metric", "documents", "value", "standard error", "minus"]
    headings += ["paired documents", "difference", "verdict"]
    notes = ["values have a standard error; a difference has an interval if lm-eval gives a value for each document"]
    rows = [row for run in runs for row in _rows(run)]
    return report_table("general-ability", "General ability by lm-eval", headings, rows, *notes)


def _rows(run: RunMaterial) -> Iterator[list[Cell]]:
    ability = run.figures.get("ability") or {}
    for setting, tasks in ability.get("settings", {}).items():
        against = ability.get("against", {}).get(setting, {})
        for task, metrics in tasks.items():
            for metric, found in metrics.items():
                change = against.get(task, {}).get(metric)
                yield [
                    *(run.title, setting, task, metric, count(found["documents"]), cell(found["value"])),
                    *(_error(found["stderr"]), *_change(change, against.get("base"))),
                ]


def _error(stderr: Any) -> Cell:
    """Return the standard error, or None if lm-eval wrote `N/A`."""
    return exact(stderr) if isinstance(stderr, int | float) else None


def _change(change: Any, base: str | None) -> list[Cell]:
    if change is None:
        return [None] * 4
    return [
        base,
        count(change["documents"]),
        spanned(change["difference"], change["interval"]),
        _WORSE[change["worse"]],
    ]
