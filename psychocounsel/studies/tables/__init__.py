"""Tables of a study: read from its run directories, written as CSV, Markdown and LaTeX. No torch.

    table:
      algorithms: {kind: runs, rows: [dpo, ppo], columns: {accuracy: eval/accuracy}}

`kind` is one of KINDS, each in its own file. A row is a setting (the swept keys without the seed); n counts its seeds.
"""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from psychocounsel.blocks.tables import csv_of, latex_of, markdown_of
from psychocounsel.cluster.job import Job
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.settings.command import NOTHING_HELD_OUT
from psychocounsel.settings.schema import suggestion
from psychocounsel.storage.files import write_atomically
from psychocounsel.studies.plan import PlannedStage
from psychocounsel.studies.study_file import Study, near
from psychocounsel.studies.tables import curve_table, cut_table, node_table, run_table
from psychocounsel.studies.tables.runs import read_runs

KINDS = {"runs": run_table, "cuts": cut_table, "curves": curve_table, "nodes": node_table}
_DEFAULT = "table"
_VALUE = re.compile(r"\$\{study\.(\w+)\}")


def write(files: StudyDir, study: Study) -> list[Path]:
    """Write every table of the study in three formats; return the files.

    Raises:
        UserError: for the first mistake that `problems` finds in the study's `table`.
    """
    if mistakes := list(problems(study)):
        raise UserError(mistakes[0])
    runs, written = read_runs(files), list[Path]()
    for name, layout in layouts(study).items():
        made = KINDS[layout.get("kind", "runs")].table(runs, layout, str(layout.get("title") or name))
        for ending, text in (("csv", csv_of(made)), ("md", markdown_of(made)), ("tex", latex_of(made, name))):
            path = files.written_table(name, ending)
            write_atomically(path, text)
            written.append(path)
    return written


def problems(study: Study) -> Iterator[str]:
    """Yield mistakes in the study's `table`, one per line, before anything runs."""
    for name, layout in layouts(study).items():
        place = f"table.{name}"
        if not isinstance(name, str) or not name.isidentifier() or name in study.stages:
            yield f"{place}: a table needs a name of letters, digits and _, other than a stage's name"
        if not isinstance(layout, dict):
            yield f"{place}: must contain kind, rows and columns"
            continue
        kind = layout.get("kind", "runs")
        if not isinstance(kind, str) or kind not in KINDS:
            yield f"{place}.kind={kind}: is one of {', '.join(KINDS)}"
            continue
        known = ("kind", "title", "rows", *KINDS[kind].KEYS)
        for key in layout:
            if key not in known:
                yield f"{place}: has no key {key}; {near(str(key), known)}(it has {', '.join(known)})"
        rows = layout.get("rows")
        if not isinstance(rows, list | dict) or not rows:
            yield f"{place}.rows: names stages, as [dpo, ppo], or as {{Title: dpo}}"
            continue
        for stage in rows if isinstance(rows, list) else rows.values():
            if not isinstance(stage, str) or stage not in study.stages:
                yield f"{place}.rows: no such stage {stage}; {near(str(stage), [*study.stages])}".rstrip("; ")
        yield from (f"{place}.{line}" for line in KINDS[kind].problems(layout))


def layouts(study: Study) -> dict[str, Any]:
    """Return the tables in the study's file; default: one table with every stage's own metric."""
    layouts: dict[str, Any] = _with_values(study.table, study)
    return layouts or {_DEFAULT: {"rows": [*study.stages], "title": study.about or study.name}}


def _with_values(layout: Any, study: Study) -> Any:
    """Replace `${study.VALUE}` in a layout's texts; unknown values stay and are reported as unknown metrics later."""
    if isinstance(layout, dict):
        return {key: _with_values(inner, study) for key, inner in layout.items()}
    if isinstance(layout, list):
        return [_with_values(part, study) for part in layout]
    if isinstance(layout, str):
        return _VALUE.sub(lambda match: str(study.values.get(match[1], match[0])), layout)
    return layout


# Figures that the tables name, known before anything runs

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
    advice = suggestion(_plain(metric), [*known], "")
    near = f"; {advice}" if advice else ""
    return f"no row will have such a figure{near} (there will be {', '.join(known)})"
