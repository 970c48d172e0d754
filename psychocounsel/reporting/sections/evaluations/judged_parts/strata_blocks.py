"""Figures by stratum (kind of risk, disclosure, expected action, pattern): a chart of both failures, and tables of shares."""

from collections.abc import Sequence

from psychocounsel.counsel.principles import ACTIONS
from psychocounsel.reporting.blocks import Block, Chart
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, count, measured, points, report_table
from psychocounsel.reporting.sections.evaluations.judged_parts.judged_settings import (
    HEADINGS,
    JudgedSetting,
    Subject,
)
from psychocounsel.studies.tables.formats import Cell

_FAILURES = ("missed", "over_escalation")
_TITLES = {"kind": "kind of risk", "disclosure": "disclosure", "expected_action": "expected action"}


def strata_blocks(subject: Subject, settings: Sequence[JudgedSetting], charted: str) -> list[Block]:
    """Return the chart over the strata of `charted`, then a table for each way of dividing the cases."""
    divisions = dict.fromkeys(name for each in settings for name in each.found["strata"])
    blocks: list[Block] = [*_chart(subject, settings, charted)]
    notes = [f"{subject.by_cluster}; they are wide, because a stratum has few {subject.clusters}"]
    notes += [f"a figure counts only the {subject.clusters} that call for it; the column {subject.clusters} counts all"]
    for division in divisions:
        title = _titled(division)
        rows = [
            [*each.head, stratum, *_cells(subject, figures)]
            for each in settings
            for stratum, figures in _in_order(each.found["strata"].get(division, {}))
        ]
        headings = [*HEADINGS, title, subject.clusters, *map(subject.titled, subject.shares)]
        name = f"{subject.prefix}-by-{division.replace('_', '-')}"
        blocks += report_table(name, f"{subject.title} by {title}", headings, rows, *notes)
    return blocks


def _titled(division: str) -> str:
    return _TITLES.get(division, division.replace("_", " "))


def _in_order(strata: Figures) -> list[tuple[str, Figures]]:
    """Return expected actions from none to emergency; other strata keep the file's order."""
    return sorted(strata.items(), key=lambda each: ACTIONS.index(each[0]) if each[0] in ACTIONS else -1)


def _cells(subject: Subject, figures: Figures) -> list[Cell]:
    clusters = max(each["prompts"] for each in figures.values())
    return [count(clusters), *(measured(figures.get(name), "mean", True) for name in subject.shares)]


def _chart(subject: Subject, settings: Sequence[JudgedSetting], division: str) -> list[Chart]:
    strata = list(dict.fromkeys(value for each in settings for value in each.found["strata"].get(division, {})))
    pairs = [(each, figure) for each in settings for figure in _FAILURES]
    curves = []
    for number, (each, figure) in enumerate(pairs):
        found = each.found["strata"].get(division, {})
        shares = {place: found[value][figure] for place, value in enumerate(strata) if value in found}
        title = f"{each.title(settings)}: {subject.titled(figure)}"
        curves += points(title, shares, _titled(division), number, len(pairs), "mean")
    missed, over = map(subject.titled, _FAILURES)
    notes = [
        f"Bars are 95 % intervals over {subject.clusters}. A stratum of one has no interval and is only in the table.",
        f"Each figure counts only the {subject.clusters} that call for it.",
    ]
    title = f"{subject.title}: {missed} and {over} by {_titled(division)}"
    name = f"{subject.prefix}-failures-by-{division.replace('_', '-')}"
    return [Chart(name, title, f"share of {subject.cases}", curves, ticks=strata, notes=notes)] if curves else []
