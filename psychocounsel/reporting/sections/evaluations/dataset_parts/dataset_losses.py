"""Rows lost on the way to a dataset: at which step, where and why; and missing ratings."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import cell, count, report_table
from psychocounsel.studies.tables.formats import Cell

StepsOf = Callable[[RunMaterial], dict[str, Any]]
_KEPT = ("text", "rated")  # outcomes that are not losses


def losses(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[ReportTable]:
    """Return a table with a row for each reason at each step, and a table of missing ratings."""
    rows = [[run.title, *row] for run in runs for row in _losses(steps_of(run))]
    headings = ["dataset", "step", "where", "reason", "lost"]
    notes = ["a loss may be counted at several steps: a reply without text also costs pairs"]
    tables = report_table("dataset-losses", "Losses by step and reason", headings, rows, *notes)
    return tables + _missing(runs, steps_of)


def _losses(steps: dict[str, Any]) -> Iterator[list[Cell]]:
    for source, found in steps.get("speeches", {}).get("sources", {}).items():
        yield from _reasons("speeches", source, found["fell"])
    for writer, outcomes in steps.get("replies", {}).get("writers", {}).items():
        yield from _reasons("replies", f"writer {writer}", outcomes)
    scores = steps.get("scores", {})
    for name, found in scores.get("annotators", {}).items():
        yield from _reasons("scores", f"annotator {name}", found["votes"])
    for name, reasons in scores.get("skipped", {}).items():
        said = {f"not asked: {reason}": number for reason, number in reasons.items()}
        yield from _reasons("scores", f"annotator {name}", said)
    for split, found in steps.get("pairs", {}).items():
        if isinstance(found, dict):
            yield from _reasons("pairs", split, found["dropped"])


def _reasons(step: str, where: str, reasons: dict[str, int]) -> Iterator[list[Cell]]:
    for reason, number in sorted(reasons.items(), key=lambda each: -each[1]):
        if number and reason not in _KEPT:
            yield [step, where, reason.replace("_", " "), count(number)]


def _missing(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[ReportTable]:
    """Return a table with the share of missing ratings by risk and topic; no table if no rating is missing."""
    rows = [
        [
            *(run.title, kind, value, count(sum(number for key, number in each.items() if key != "missing"))),
            cell(each["missing"], percent=True),
        ]
        for run in runs
        for kind, values in steps_of(run).get("scores", {}).get("missing", {}).items()
        for value, each in values.items()
        if each["missing"]
    ]
    headings = ["dataset", "kind", "risk or topic", "ratings wanted", "missing"]
    notes = [
        "ratings are not missing at random, and nothing replaces them",
        "values without a row have all their ratings",
    ]
    return report_table("dataset-missing-ratings", "Missing ratings", headings, rows, *notes)
