"""Table of faults by dimension and severity, from answers to a rubric's questions."""

from collections.abc import Iterable, Mapping, Sequence

from psychocounsel.blocks.cells import count, measured, report_table
from psychocounsel.blocks.kinds import ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.flows.questions import SEVERITY_FIGURES
from psychocounsel.evaluation.health.figures import MeanFigure


def severity_table(
    name: str,
    title: str,
    headings: Sequence[str],
    settings: Iterable[tuple[Sequence[Cell], Mapping[str, Mapping[str, MeanFigure]]]],
    *notes: str,
) -> list[ReportTable]:
    """Return a table with a row for each dimension.

    `settings` pairs the first cells of rows with the result of `severity_shares`; `headings` are the headings of these cells.
    """
    rows = [
        [
            *(*head, dimension, count(max(mean["prompts"] for mean in figures.values()))),
            *(measured(figures[severity], "mean", True) for severity in SEVERITY_FIGURES),
        ]
        for head, dimensions in settings
        for dimension, figures in dimensions.items()
    ]
    titles = [figure.title for figure in SEVERITY_FIGURES.values()]
    asked = "faults: shares of the cases that the dimension was asked about; not asked: share of all cases"
    return report_table(name, title, [*headings, "dimension", "cases", *titles], rows, asked, *notes)
