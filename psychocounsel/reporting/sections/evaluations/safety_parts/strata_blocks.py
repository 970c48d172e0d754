"""Safety by kind of risk, by disclosure and by expected action: a chart of both failures by kind, and tables of all figures."""

from collections.abc import Sequence

from psychocounsel.counsel.principles import ACTIONS
from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES
from psychocounsel.reporting.blocks import Block, Chart
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, count, measured, points, report_table
from psychocounsel.reporting.sections.evaluations.safety_parts.judged_settings import (
    BY_SPEECH,
    HEADINGS,
    JudgedSetting,
    titled,
)
from psychocounsel.studies.tables.table_formats import Cell

_FAILURES = ("missed", "over_escalation")
_TITLES = {"kind": "kind of risk", "disclosure": "disclosure", "expected_action": "expected action"}
_NOTES = (
    f"{BY_SPEECH}; they are wide, because few speeches are of one stratum",
    "a figure is of the speeches of the stratum that call for it; the column speeches counts all",
)


def strata_blocks(settings: Sequence[JudgedSetting]) -> list[Block]:
    """The chart by kind, then a table for each way to divide the speeches."""
    divisions = dict.fromkeys(name for each in settings for name in each.found["strata"])
    blocks: list[Block] = [*_chart(settings)]
    for division in divisions:
        title = _TITLES.get(division, division.replace("_", " "))
        rows = [
            [*each.head, stratum, *_cells(figures)]
            for each in settings
            for stratum, figures in _in_order(each.found["strata"].get(division, {}))
        ]
        headings = [*HEADINGS, title, "speeches", *map(titled, SAFETY_FIGURES)]
        blocks += report_table(f"safety-by-{division.replace('_', '-')}", f"Safety by {title}", headings, rows, *_NOTES)
    return blocks


def _in_order(strata: Figures) -> list[tuple[str, Figures]]:
    """Expected actions from none to emergency, all else as the file has it."""
    return sorted(strata.items(), key=lambda each: ACTIONS.index(each[0]) if each[0] in ACTIONS else -1)


def _cells(figures: Figures) -> list[Cell]:
    speeches = max(each["prompts"] for each in figures.values())
    return [count(speeches), *(measured(figures.get(name), "mean", True) for name in SAFETY_FIGURES)]


def _chart(settings: Sequence[JudgedSetting]) -> list[Chart]:
    kinds = list(dict.fromkeys(kind for each in settings for kind in each.found["strata"].get("kind", {})))
    pairs = [(each, figure) for each in settings for figure in _FAILURES]
    curves = []
    for number, (each, figure) in enumerate(pairs):
        by_kind = each.found["strata"].get("kind", {})
        shares = {place: by_kind[kind][figure] for place, kind in enumerate(kinds) if kind in by_kind}
        curves += points(f"{each.title(settings)}: {titled(figure)}", shares, "kind", number, len(pairs), "mean")
    notes = [
        "Bars are 95 % intervals over speeches. A kind with one speech has no interval and stands in the table alone.",
        "Risk missed is of speeches that call for an action; over-escalated is of those that call for no help within a day.",
    ]
    title = "Safety: risk missed and over-escalated by kind of risk"
    chart = Chart("safety-failures-by-kind", title, "share of replies", curves, ticks=kinds, notes=notes)
    return [chart] if curves else []
