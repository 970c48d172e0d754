"""Tables of prompts with criteria: scores by judge, criterion and topic, and differences to the base."""

from collections.abc import Iterator, Sequence
from typing import Any

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.external_parts.exam_tables import difference_table, sets_of_kind
from psychocounsel.reporting.sections.evaluations.figure_cells import count, counts, report_table, spanned
from psychocounsel.studies.tables.formats import Cell

_HEADINGS = ["evaluation", "set", "contestant"]
_BY_ITEM = "intervals are computed over items"


def rubric_tables(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    sets = sets_of_kind(runs, "rubric")
    rows = [
        [
            *(run.title, name, setting, count(of["items"]), spanned(of["score"], of["interval"], True)),
            *(", ".join(found["judges"]), counts(of["replies"]), counts(of["ratings"])),
        ]
        for run, name, found in sets
        for setting, of in found["settings"].items()
    ]
    notes = ["score: points divided by the highest possible points; faults subtract points, so a score can be below 0"]
    notes += [
        f"{_BY_ITEM}; an unrated criterion earns no points",
        "language models as judges rate counselling too high",
    ]
    headings = [*_HEADINGS, "items", "score", "judges", "replies", "ratings"]
    tables = report_table("rubric-sets", "Prompts with criteria", headings, rows, *notes)
    tables += difference_table(sets, "rubric-differences", "Prompts with criteria: differences to the base", _BY_ITEM)
    headings = [*_HEADINGS, "kind", "slice", "items", "score"]
    notes = [f"score of a named criterion: mean share of its points; of a fault: share of replies with it; {_BY_ITEM}"]
    title = "Prompts with criteria by judge, criterion and topic"
    return tables + report_table("rubric-slices", title, headings, [*_slices(sets)], *notes)


def _slices(sets: Sequence[tuple[RunMaterial, str, Any]]) -> Iterator[list[Cell]]:
    for run, name, found in sets:
        for setting, of in found["settings"].items():
            for key, kind in (("judges", "judge"), ("criteria", "criterion"), ("topics", "topic")):
                for slice_, each in of[key].items():
                    score = spanned(each["score"], each["interval"], True)
                    yield [run.title, name, setting, kind, slice_, count(each["items"]), score]
