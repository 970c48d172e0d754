"""Section on the health of replies: completeness, variety, loops, refusals and invented turns, compared with the base."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psychocounsel.evaluation.health.reply_health import FIGURES
from psychocounsel.reporting.blocks import Block, Chart, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import (
    Figures,
    cell,
    count,
    counts,
    evaluations,
    exact,
    measured,
    name_in,
    points,
    report_table,
    without_figures,
    words_limit,
)
from psychocounsel.studies.tables.formats import Cell
from psychocounsel.studies.tables.runs import TableFigure

_SHARES = [name for name, figure in FIGURES.items() if figure.share]
_MEASURES = [name for name, figure in FIGURES.items() if not figure.share]
_HEADINGS = ["evaluation", "contestant", "length limit"]
_BY_SPEECH = "intervals are computed over speeches"


@dataclass(frozen=True)
class _Replied:
    """A contestant of an evaluation under one length limit, with its figures."""

    run: RunMaterial
    name: str
    limit: int | None
    figures: Figures

    @property
    def head(self) -> list[Cell]:
        return [self.run.title, self.name, words_limit(self.limit)]


def section(material: Material) -> Section:
    every = evaluations(material, "health")
    runs = [run for run in every if run.figures.get("variants")]
    found = [each for run in runs for each in _contestants(run)]
    blocks: list[Block] = [*without_figures(every, lambda run: bool(run.figures.get("variants")))]
    blocks += [
        Paragraph(f"{run.title}: {line.removeprefix('warning: ')}", "warning")
        for run in runs
        for line in run.figures["warnings"]
    ]
    blocks += [*_chart(found, runs), *_table("health-shares", "Health of replies: shares", found, _SHARES)]
    blocks += _table("health-measures", "Health of replies: measures", found, _MEASURES)
    for percent, title in ((True, "shares"), (False, "measures")):
        blocks += _differences(runs, percent, f"health-differences-{title}", f"Health against the base: {title}")
    return Section("health", "Health of replies", [*blocks, *_replies(found), *_seeds(found)])


def _contestants(run: RunMaterial) -> Iterator[_Replied]:
    for variant in run.figures["variants"]:
        for name, figures in variant["settings"].items():
            yield _Replied(run, name, variant["length_limit"], figures)


def _chart(found: Sequence[_Replied], runs: Sequence[RunMaterial]) -> list[Chart]:
    curves = []
    for number, each in enumerate(found):
        title = name_in(each.run, each.name, runs, words_limit(each.limit))
        shares = {place: each.figures["figures"][name] for place, name in enumerate(_SHARES)}
        curves += points(title, shares, "figure", number, len(found), "mean")
    ticks = [FIGURES[name].title for name in _SHARES]
    notes = [
        "Bars are 95 % intervals over speeches.",
        "A question at the end and formatting are neither good nor bad.",
    ]
    chart = Chart("health", "Health of replies", "share of replies", curves, ticks=ticks, notes=notes)
    return [chart] if curves else []


def _table(name: str, title: str, found: Sequence[_Replied], figures: Sequence[str]) -> list[ReportTable]:
    """Return a table with a row for each figure of each contestant, and the limit for a healthy model."""
    rows = list[list[Cell]]()
    for each in found:
        limits = {limit["name"]: limit for limit in each.figures["limits"]}
        for key in figures:
            told = each.figures["figures"][key]
            limit: Mapping[str, str | float] = limits.get(key, {})
            value = measured(told, "mean", FIGURES[key].share)
            most = exact(limit.get("limit"), True)  # type: ignore[arg-type]
            row = [FIGURES[key].title, count(told["prompts"]), count(told["replies"]), value, most]
            rows.append([*each.head, *row, str(limit["verdict"]) if limit else ""])
    headings = [*_HEADINGS, "figure", "speeches", "replies", "value", "limit", "verdict"]
    notes = [f"{_BY_SPEECH}; a reply for which a figure is undefined is omitted from that figure"]
    notes += (
        ["kept: the whole interval is within the limit; exceeded: the whole interval is above it"]
        if figures is _SHARES
        else []
    )
    return report_table(name, title, headings, rows, *notes)


def _differences(runs: Sequence[RunMaterial], percent: bool, name: str, title: str) -> list[ReportTable]:
    """Return a table of differences: the model under evaluation minus each other contestant."""
    rows = [
        [
            *(run.title, run.figures["model"], other, words_limit(variant["length_limit"]), FIGURES[key].title),
            *(count(found["prompts"]), cell(found["mine"], percent=percent), cell(found["base"], percent=percent)),
            *(measured(found, "difference", percent), found["verdict"]),
        ]
        for run in runs
        for variant in run.figures["variants"]
        for other, figures in variant["against"].items()
        for key, found in figures.items()
        if FIGURES[key].share == percent
    ]
    headings = ["evaluation", "model", "minus", "length limit", "figure", "speeches", "model's", "base's", "difference"]
    notes = [
        f"minus: the contestant subtracted; paired by speech; {_BY_SPEECH}, not corrected for the number of figures"
    ]
    notes += [
        "unclear: the interval of the difference includes 0",
        "intervals of both means are in the tables above",
    ]
    return report_table(name, title, [*headings, "verdict"], rows, *notes)


def _replies(found: Sequence[_Replied]) -> list[ReportTable]:
    rows = [
        [*each.head, count(each.figures["prompts"]), count(each.figures["replies"]), counts(each.figures["outcomes"])]
        for each in found
    ]
    headings = [*_HEADINGS, "speeches", "replies", "outcomes of all calls"]
    return report_table("health-replies", "Replies whose health was measured", headings, rows)


def _seeds(found: Sequence[_Replied]) -> list[ReportTable]:
    rows = [
        [*each.head, FIGURES[key].title, TableFigure(told["mean"], told["sd"], n=told["n"]), count(told["n"])]
        for each in found
        for key, told in each.figures["seeds"].items()
    ]
    notes = ["mean and standard deviation of the means of each seed; shares between 0 and 1; without an interval"]
    headings = [*_HEADINGS, "figure", "over seeds", "seeds"]
    return report_table("health-seeds", "Health over training seeds", headings, rows, *notes)
