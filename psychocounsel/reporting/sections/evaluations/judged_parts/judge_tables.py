"""Reliability of judges: results on planted faults, outcomes of their calls, and checks of their quotations."""

from collections.abc import Iterable, Sequence

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, counts, measured, report_table
from psychocounsel.reporting.sections.evaluations.judged_parts.judged_settings import (
    REPLIES,
    Subject,
    judges_of,
)
from psychocounsel.studies.tables.formats import Cell

_HEADINGS = ["evaluation", "judge"]


def judge_tables(subject: Subject, runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return tables of sensitivity and specificity on planted faults, and of the outcomes of all calls."""
    found = [(run.title, judge, of_judge["quality"]) for run, judge, of_judge in judges_of(runs)]
    return [*quality_table(subject.prefix, subject.title, found), *_calls(subject, runs)]


def quality_table(prefix: str, title: str, found: Iterable[tuple[str, str, Figures]]) -> list[ReportTable]:
    """Return a table with a row for each figure of each judge.

    `found` yields evaluation, judge, and the result of `judge_quality` for this judge.
    """
    rows = [
        [evaluation, judge, REPLIES.titled(figure), *_share(each["sensitivity"]), *_share(each["specificity"])]
        for evaluation, judge, quality in found
        for figure, each in quality.items()
    ]
    headings = [*_HEADINGS, "figure", "faults found", "sensitivity", "sound replies passed", "specificity"]
    notes = ["single replies with planted faults, with exact intervals (Clopper and Pearson)"]
    notes += ["these replies are easier to judge than a model's, so the true rates are lower"]
    return report_table(f"{prefix}-judge-quality", f"{title}: judges on planted faults", headings, rows, *notes)


def _share(found: Figures) -> list[Cell]:
    if not found["of"]:
        return ["none planted", None]
    return [f"{found['right']} of {found['of']}", measured(found, percent=True)]


def _calls(subject: Subject, runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run, judge, found in judges_of(runs):
        record = run.extra.get("steps", {}).get("answers", {}).get("figures", {})
        answered = record.get("outcomes", {}).get(judge, found["outcomes"])
        rows.append([run.title, judge, counts(answered), f"{found['quotes']['found']} of {found['quotes']['of']}"])
    headings = [*_HEADINGS, "outcomes of all calls", "quotations found in the reply"]
    notes = ["answers about replies with planted faults are included"]
    return report_table(f"{subject.prefix}-judges", f"{subject.title}: answers of the judges", headings, rows, *notes)
