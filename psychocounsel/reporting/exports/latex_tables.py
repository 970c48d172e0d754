"""`tables/NAME.tex`: the report's tables in LaTeX."""

from psychocounsel.reporting.blocks import Report, ReportTable
from psychocounsel.rundir.paths import ReportDir
from psychocounsel.storage.files import write_atomically
from psychocounsel.studies.tables.formats import latex_of


def write_tables(report: Report, files: ReportDir) -> None:
    """Write each table that has rows as a `table` environment, which needs the LaTeX package booktabs."""
    files.tables.mkdir()
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, ReportTable) and block.table.rows:
                write_atomically(files.table(block.name), latex_of(block.table, block.name), durable=False)
