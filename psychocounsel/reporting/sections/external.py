"""Section on external benchmarks: exams, prompts with criteria, and lm-eval tasks."""

from collections.abc import Iterator, Sequence
from typing import Any

from psychocounsel.blocks.cells import Figures, cell, count, counts, exact, report_table, spanned
from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluated import evaluations, without_figures

# Exams: accuracy against chance, effect of the order of choices, differences to the base, topics and letters

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


# Prompts with criteria: scores by judge, criterion and topic, and differences to the base

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
    return tables + report_table("rubric-slices", title, headings, [*_rubric_slices(sets)], *notes)


def _rubric_slices(sets: Sequence[tuple[RunMaterial, str, Any]]) -> Iterator[list[Cell]]:
    for run, name, found in sets:
        for setting, of in found["settings"].items():
            for key, kind in (("judges", "judge"), ("criteria", "criterion"), ("topics", "topic")):
                for slice_, each in of[key].items():
                    score = spanned(each["score"], each["interval"], True)
                    yield [run.title, name, setting, kind, slice_, count(each["items"]), score]


# General ability: results of lm-eval, and the loss that training caused

_WORSE = {True: "worse: the whole interval is below 0", False: "no loss shown", None: ""}


def ability_tables(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    headings = ["evaluation", "contestant", "task", "metric", "documents", "value", "standard error", "minus"]
    headings += ["paired documents", "difference", "verdict"]
    notes = ["values have a standard error; a difference has an interval if lm-eval gives a value for each document"]
    rows = [row for run in runs for row in _ability_rows(run)]
    return report_table("general-ability", "General ability by lm-eval", headings, rows, *notes)


def _ability_rows(run: RunMaterial) -> Iterator[list[Cell]]:
    ability = run.figures.get("ability") or {}
    for setting, tasks in ability.get("settings", {}).items():
        against = ability.get("against", {}).get(setting, {})
        for task, metrics in tasks.items():
            for metric, found in metrics.items():
                change = against.get(task, {}).get(metric)
                yield [
                    *(run.title, setting, task, metric, count(found["documents"]), cell(found["value"])),
                    *(_error(found["stderr"]), *_change(change, against.get("base"))),
                ]


def _error(stderr: Any) -> Cell:
    """Return the standard error, or None if lm-eval wrote `N/A`."""
    return exact(stderr) if isinstance(stderr, int | float) else None


def _change(change: Any, base: str | None) -> list[Cell]:
    if change is None:
        return [None] * 4
    return [
        base,
        count(change["documents"]),
        spanned(change["difference"], change["interval"]),
        _WORSE[change["worse"]],
    ]


# The section


def section(material: Material) -> Section:
    every = evaluations(material, "external")
    runs = [run for run in every if "sets" in run.figures]
    blocks: list[Block] = [*without_figures(every, lambda run: "sets" in run.figures)]
    blocks += [
        Paragraph(f"{run.title}: {line.removeprefix('warning: ')}", "warning")
        for run in runs
        for line in run.figures["warnings"]
    ]
    return Section(
        "benchmarks", "External benchmarks", [*blocks, *exam_tables(runs), *rubric_tables(runs), *ability_tables(runs)]
    )
