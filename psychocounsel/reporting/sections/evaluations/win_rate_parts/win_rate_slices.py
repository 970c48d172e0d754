"""Tables of win rates by principle, and by judge, risk and topic."""

from collections.abc import Iterator, Sequence

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, count, measured, report_table
from psychocounsel.studies.tables.formats import Cell

Contested = tuple[list[Cell], Figures]  # the first cells of a comparison's rows, and its figures
_HEADINGS = ["evaluation", "model", "against", "length limit"]
_KINDS = {"by_judge": "judge", "risk": "risk", "topics": "topic"}


def slice_tables(contests: Sequence[Contested]) -> list[ReportTable]:
    """Return a table by principle, and a table by judge, risk and topic."""
    headings = [*_HEADINGS, "principle", "speeches", "judged pairs", "win rate", "note"]
    rows = [
        [*head, name, *_cells(figures["principles"][name])]
        for head, figures in contests
        for name in PRINCIPLES
        if name in figures["principles"]
    ]
    few = "few speeches: fewer than 30, too few for a conclusion"
    notes = [
        "only judges that rate principles are counted; reward models do not",
        "intervals are computed over speeches",
        few,
    ]
    tables = report_table("win-rate-by-principle", "Win rates on each principle", headings, rows, *notes)
    rows = [row for head, figures in contests for row in _slices(head, figures)]
    headings = [*_HEADINGS, "kind", "slice", "speeches", "judged pairs", "win rate", "note"]
    headings += ["judge and experts agree", "pairs judged by experts"]
    notes = ["intervals are computed over speeches, without correction for the number of slices", few]
    return tables + report_table("win-rate-slices", "Win rates by judge, risk and topic", headings, rows, *notes)


def _slices(head: list[Cell], figures: Figures) -> Iterator[list[Cell]]:
    for key, kind in _KINDS.items():
        for name, found in figures[key].items():
            known = figures["experts"]["by_judge"].get(name) if key == "by_judge" else None
            experts = [measured(known["raw"], percent=True), count(known["rows"])] if known else [None, None]
            yield [*head, kind, name, *_cells(found), *experts]


def _cells(found: Figures) -> list[Cell]:
    few = "few speeches" if found["small"] else ""
    return [count(found["prompts"]), count(found["rows"]), measured(found["win_rate"], percent=True), few]
