"""Tables of exams: accuracy against chance, effect of the order of choices, differences to the base, topics and letters."""

from collections.abc import Iterator, Sequence
from typing import Any

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import (
    Figures,
    cell,
    count,
    counts,
    exact,
    report_table,
    spanned,
)
from psychocounsel.studies.tables.formats import Cell

_HEADINGS = ["evaluation", "set", "contestant"]
_BY_CONTEXT = "intervals are computed over contexts; an item without a context counts as its own"


def sets_of_kind(runs: Sequence[RunMaterial], kind: str) -> list[tuple[RunMaterial, str, Any]]:
    """Return the sets of all runs that are of `kind` (exam or rubric), as (run, name, figures)."""
    return [(run, name, found) for run in runs for name, found in run.figures["sets"].items() if found["kind"] == kind]


def exam_tables(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    exams = sets_of_kind(runs, "exam")
    tables = _accuracy(exams)
    tables += difference_table(exams, "exam-differences", "Exams: differences to the base", _BY_CONTEXT)
    return [*tables, *_topics(exams), *_letters(exams)]


def _of_settings(sets: Sequence[tuple[RunMaterial, str, Any]]) -> Iterator[tuple[list[Cell], Any, Any]]:
    """Yield for each contestant the first cells of its row, its figures, and the figures of the set."""
    for run, name, found in sets:
        for setting, of in found["settings"].items():
            yield [run.title, name, setting], of, found


def _accuracy(exams: Sequence[tuple[RunMaterial, str, Any]]) -> list[ReportTable]:
    headings = [*_HEADINGS, "items", "scored", "accuracy", "in the file's order", "chance", "always one letter"]
    headings += ["same choice in all orders", "unreadable", "seeds", "SD over seeds", "all answers"]
    rows = [
        [
            *(*head, count(found["items"]), count(of["scored_items"])),
            spanned(of["accuracy"], of["interval"], True),
            *(cell(of["accuracy_in_file_order"], percent=True), exact(found["chance"], True)),
            exact(found["commonest_letter"]["accuracy"], True),
            *(cell(of["same_choice_in_all_orders"], percent=True), cell(of["unreadable"], percent=True)),
            *(count(of["seeds"]["n"]), cell(of["seeds"]["sd"], percent=True), counts(of["outcomes"])),
        ]
        for head, of, found in _of_settings(exams)
    ]
    notes = [f"{_BY_CONTEXT}", "answers that cannot be read count as wrong"]
    notes += ["always one letter: the accuracy of always giving the letter that is most often right"]
    return report_table("exams", "Exams", headings, rows, *notes)


def difference_table(
    sets: Sequence[tuple[RunMaterial, str, Any]], name: str, title: str, intervals: str
) -> list[ReportTable]:
    """Return a table of the contestants' differences to the base, paired by item."""
    rows = [
        [
            *(run.title, named, setting, change["base"], count(change["items"])),
            *(spanned(change["difference"], change["interval"], True), count(change["better"]), count(change["worse"])),
            exact(change["p"]),
        ]
        for run, named, found in sets
        for setting, change in found.get("against", {}).items()
    ]
    headings = [*_HEADINGS, "minus", "items", "difference", "items better", "items worse", "p"]
    notes = [
        f"minus: the contestant whose value is subtracted; paired by item; {intervals}",
        "p: exact two-sided sign test on items with different results",
    ]
    return report_table(name, title, headings, rows, *notes)


def _topics(exams: Sequence[tuple[RunMaterial, str, Any]]) -> list[ReportTable]:
    rows = [
        [*head, topic, count(each["items"]), spanned(each["accuracy"], each["interval"], True)]
        for head, of, _ in _of_settings(exams)
        for topic, each in of["topics"].items()
    ]
    return report_table("exam-topics", "Exams by topic", [*_HEADINGS, "topic", "items", "accuracy"], rows, _BY_CONTEXT)


def _letters(exams: Sequence[tuple[RunMaterial, str, Any]]) -> list[ReportTable]:
    def shares(each: Figures) -> list[Cell]:
        return [cell(each[key], percent=True) for key in ("chosen", "right", "accuracy_where_right")]

    rows = [
        [*head, letter, *shares(each)] for head, of, _ in _of_settings(exams) for letter, each in of["letters"].items()
    ]
    headings = [*_HEADINGS, "letter", "chosen", "right", "chosen if right"]
    note = "without position bias, a letter is chosen about as often as it is right"
    return report_table("exam-letters", "Exams by letter", headings, rows, note)
