"""Tables of a study: read from its run directories, written as CSV, Markdown and LaTeX. No torch.

    table:
      algorithms: {kind: runs, rows: [dpo, ppo], columns: {accuracy: eval/accuracy}}

`kind` is one of KINDS, each in its own file. A row is a setting (the swept keys without the seed); n counts its seeds.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psychocounsel.blocks.tables import csv_of, latex_of, markdown_of
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.storage.files import write_atomically
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
        if not name.isidentifier() or name in study.stages:
            yield f"{place}: a table needs a name of letters, digits and _, other than a stage's name"
        if not isinstance(layout, dict):
            yield f"{place}: must contain kind, rows and columns"
            continue
        kind = layout.get("kind", "runs")
        if kind not in KINDS:
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
            if stage not in study.stages:
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
