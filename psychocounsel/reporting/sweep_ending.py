"""Text printed at the end of a local sweep: figures by setting, a note on losses, and the report command."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psychocounsel.blocks.tables import Table
    from psychocounsel.cluster.job import Job
    from psychocounsel.reporting.material import Material


def show_sweep(jobs: "Sequence[Job]") -> None:
    """Print figures of the sweep of these jobs. Nothing is printed for one job, a dry run, or if none has finished.

    Imports are inside the functions, because the command imports this module before it refuses a wrong command line.
    """
    config = jobs[0].config
    if len(jobs) < 2 or config.dry_run or not any(job.files.summary.exists() for job in jobs):
        return
    from psychocounsel.blocks.terminal import encodable

    print(encodable(sweep_ending(Path(config.sweep_dir))), flush=True)


def sweep_ending(folder: Path) -> str:
    """Return the tables by setting and the report command."""
    from psychocounsel.cluster.states import short
    from psychocounsel.errors import UserError
    from psychocounsel.reporting.reading.folders import read_material

    command = f"report: psychocounsel report {short(folder)}"
    try:
        material = read_material([folder], shows_texts=False)
    except UserError as error:  # the sweep has ended normally, so this is only printed
        return f"{error}\n{command}"
    return "\n".join(["", *_tables(material), command])


def _tables(material: "Material") -> Iterator[str]:
    from psychocounsel.reporting.material import TRAINING
    from psychocounsel.reporting.sections.by_setting import final_table, loss_warning, setting_tables
    from psychocounsel.reporting.sections.comparisons import settings_of

    settings = settings_of(material.of(TRAINING))
    if any(setting.finished for setting in settings):
        yield from _lines(final_table(settings))
        yield from (f"warning: {text}" for text in loss_warning(settings))
    for table in setting_tables(material).values():
        yield from _lines(table)


def _lines(table: "Table") -> Iterator[str]:
    from psychocounsel.blocks.tables import cell_text, shown_headings
    from psychocounsel.cluster.states import aligned

    rows = [[cell_text(cell) for cell in row] for row in table.rows]
    yield from aligned([shown_headings(table), *rows])
    if any("±" in text for row in rows for text in row):
        yield "±: standard deviation over seeds"
