"""Table of faults of replies or whole conversations by dimension and severity, from answers to a rubric's questions."""

from collections.abc import Iterable, Sequence

from psychocounsel.evaluation.flows.severity_shares import SEVERITY_FIGURES
from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, count, measured, report_table
from psychocounsel.studies.tables.formats import Cell


def severity_table(
    name: str, title: str, headings: Sequence[str], found: Iterable[tuple[Sequence[Cell], Figures]], *notes: str
) -> list[ReportTable]:
    """Return a table with a row for each dimension.

    `found` pairs the first cells of rows with the result of `severity_shares`; `headings` are the headings of these cells.
    """
    rows = [
        [
            *(*head, dimension, count(max(each["prompts"] for each in figures.values()))),
            *(measured(figures[severity], "mean", True) for severity in SEVERITY_FIGURES),
        ]
        for head, shares in found
        for dimension, figures in shares.items()
    ]
    titles = [figure.title for figure in SEVERITY_FIGURES.values()]
    asked = "faults: shares of the cases that the dimension was asked about; not asked: share of all cases"
    return report_table(name, title, [*headings, "dimension", "cases", *titles], rows, asked, *notes)
