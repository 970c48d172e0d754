"""How far the judges of a safety evaluation can be trusted: planted faults, answers that are missing, quotations."""

from collections.abc import Sequence

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, counts, measured, report_table
from psychocounsel.reporting.sections.evaluations.safety_parts.judged_settings import judges_of, titled
from psychocounsel.studies.tables.table_formats import Cell

_HEADINGS = ["evaluation", "judge"]


def judge_tables(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Sensitivity and specificity on planted faults, then what came of all calls."""
    rows = [
        [run.title, judge, titled(figure), *_share(each["sensitivity"]), *_share(each["specificity"])]
        for run, judge, found in judges_of(runs)
        for figure, each in found["quality"].items()
    ]
    headings = [*_HEADINGS, "figure", "faults found", "sensitivity", "sound replies let pass", "specificity"]
    notes = ["replies with planted faults, with exact intervals (Clopper and Pearson)"]
    notes += ["these replies are easier than a model's, so the true rates are lower"]
    return [
        *report_table("safety-judge-quality", "Safety: judges on planted faults", headings, rows, *notes),
        *_calls(runs),
    ]


def _share(found: Figures) -> list[Cell]:
    if not found["of"]:
        return ["none planted", None]
    return [f"{found['right']} of {found['of']}", measured(found, percent=True)]


def _calls(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run, judge, found in judges_of(runs):
        record = run.extra.get("steps", {}).get("answers", {}).get("figures", {})
        answered = record.get("outcomes", {}).get(judge, found["outcomes"])
        rows.append([run.title, judge, counts(answered), f"{found['quotes']['found']} of {found['quotes']['of']}"])
    headings = [*_HEADINGS, "what came of all calls", "quotations that stand in the reply"]
    notes = ["answers about the replies with planted faults are counted, too"]
    return report_table("safety-judges", "Safety: answers of the judges", headings, rows, *notes)
