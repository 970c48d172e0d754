"""The end of a sweep on this machine: its figures by setting, why losses are not among them, and where to look further."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psychocounsel.cluster.job import Job
    from psychocounsel.reporting.material import Material
    from psychocounsel.studies.tables.table_formats import Table


def show_sweep(jobs: "Sequence[Job]") -> None:
    """Print the ending of the sweep that these jobs were; nothing of one job alone, or where none has finished.

    What a command imports when it starts imports nothing here: a command line is to be refused at once.
    """
    config = jobs[0].config
    if len(jobs) < 2 or config.dry_run or not any(job.files.summary.exists() for job in jobs):
        return
    from psychocounsel.reporting.terminal.plain_text import printable

    print(printable(sweep_ending(Path(config.sweep_dir))), flush=True)


def sweep_ending(folder: Path) -> str:
    """The table by setting and the report's command."""
    from psychocounsel.cluster.standing.status_lines import short
    from psychocounsel.errors import UserError
    from psychocounsel.reporting.reading.known_folders import read_material

    command = f"look at it: python -m psychocounsel.report {short(folder)}"
    try:
        material = read_material([folder], shows_texts=False)
    except UserError as error:  # the sweep itself has ended as it has
        return f"{error}\n{command}"
    return "\n".join(["", *_tables(material), command])


def _tables(material: "Material") -> Iterator[str]:
    from psychocounsel.reporting.material import TRAINING
    from psychocounsel.reporting.sections.comparing.setting_groups import settings_of
    from psychocounsel.reporting.sections.evaluations.setting_section import setting_tables
    from psychocounsel.reporting.sections.training.final_section import final_table, loss_warning

    settings = settings_of(material.of(TRAINING))
    if any(setting.finished for setting in settings):
        yield from _lines(final_table(settings))
        yield from (f"warning: {text}" for text in loss_warning(settings))
    for table in setting_tables(material).values():
        yield from _lines(table)


def _lines(table: "Table") -> Iterator[str]:
    from psychocounsel.cluster.standing.status_lines import aligned
    from psychocounsel.studies.tables.table_formats import cell_text, shown_headings

    rows = [[cell_text(cell) for cell in row] for row in table.rows]
    yield from aligned([shown_headings(table), *rows])
    if any("±" in text for row in rows for text in row):
        yield "±: standard deviation over seeds"
