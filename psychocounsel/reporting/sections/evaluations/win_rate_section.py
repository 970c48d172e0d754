"""Section on win rates: how often judges prefer the evaluated model's replies, as written and corrected for length."""

from collections.abc import Sequence

from psychocounsel.reporting.blocks import Block, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import (
    Figures,
    cell,
    count,
    counts,
    evaluations,
    exact,
    measured,
    report_table,
    without_figures,
    words_limit,
)
from psychocounsel.reporting.sections.evaluations.win_rate_parts.win_rate_charts import (
    Contest,
    contests_of,
    overview_chart,
    principle_chart,
)
from psychocounsel.reporting.sections.evaluations.win_rate_parts.win_rate_judges import judge_blocks
from psychocounsel.reporting.sections.evaluations.win_rate_parts.win_rate_slices import slice_tables
from psychocounsel.studies.tables.formats import Cell
from psychocounsel.studies.tables.runs import TableFigure

_HEADINGS = ["evaluation", "model", "against", "length limit"]
_CONTROLS = {
    "length_controlled": "at equal length",
    "length_and_ending_controlled": "and equal ending",
    "length_and_formatting_controlled": "and equal formatting",
    "all_controlled": "and equal in both",
}
_SHARES = ("won", "partly_won", "tied", "partly_lost", "lost")


def section(material: Material) -> Section:
    every = evaluations(material, "winrate")
    runs = [run for run in every if run.figures.get("variants")]
    contests = [contest for run in runs for contest in contests_of(run)]
    blocks: list[Block] = [*without_figures(every, lambda run: bool(run.figures.get("variants")))]
    if runs:
        blocks += [
            *_warnings(runs),
            *_headline(contests),
            *overview_chart(contests, runs),
            *principle_chart(contests, runs),
        ]
        blocks += [*slice_tables([(each.head, each.figures) for each in contests]), *_controls(contests)]
        blocks += [*_shares(contests), *_seeds(contests), *judge_blocks(runs), *_contestants(runs)]
    return Section("win-rates", "Win rates", blocks)


def _warnings(runs: Sequence[RunMaterial]) -> list[Block]:
    found: list[Block] = []
    for run in runs:
        found += [
            Paragraph(f"{run.title}: {line.removeprefix('warning: ')}", "warning") for line in run.figures["warnings"]
        ]
        if left_out := run.figures.get("left_out"):
            said = "speeches are skipped, because they are near-duplicates of training data"
            found.append(Paragraph(f"{run.title}: {left_out} {said}."))
        if not any(variant["opponents"] for variant in run.figures["variants"]):
            found.append(Paragraph(f"{run.title}: no verdicts, so there are no win rates.", "warning"))
    return found


def _headline(contests: Sequence[Contest]) -> list[ReportTable]:
    headings = [*_HEADINGS, "win rate", "at equal length", "speeches", "pairs", "p", "Holm p"]
    headings += ["judges and experts agree", "pairs judged by experts", "note"]
    rows = [
        [
            *each.head,
            measured(each.figures["overall"]["win_rate"], percent=True),
            measured(each.figures["length_controlled"]["win_rate"], percent=True),
            *(count(each.figures["overall"]["prompts"]), count(each.figures["overall"]["rows"])),
            *(exact(each.figures["p"]), exact(each.figures["p_adjusted"])),
            *_experts(each.figures["experts"]["together"]),
            _note(each.figures["overall"]),
        ]
        for each in contests
    ]
    notes = ["each speech has weight 1, a tie is half a win, and every pair is judged in both orders"]
    notes += [
        "intervals are computed over speeches; p is two-sided; Holm p is adjusted over the opponents of one evaluation"
    ]
    notes += ["at equal length: a regression on the difference in length, as in AlpacaEval 2"]
    if any(each.figures["overall"]["small"] for each in contests):
        notes += ["few speeches: fewer than 30, so intervals are too narrow to trust"]
    if any(each.figures["experts"]["together"] is None for each in contests):
        notes += ["without comparisons by experts, it is unknown whether these judges agree with people"]
    return report_table("win-rates", "Win rates", headings, rows, *notes)


def _experts(found: Figures | None) -> tuple[Cell, Cell]:
    return (None, None) if found is None else (measured(found["raw"], percent=True), count(found["rows"]))


def _note(overall: Figures) -> str:
    said = ["few speeches"] if overall["small"] else []
    said += [f"{overall['unjudged']} without a verdict"] if overall["unjudged"] else []
    return "; ".join(said)


def _controls(contests: Sequence[Contest]) -> list[ReportTable]:
    """Return a table of the win rate corrected for length, for a question at the end, and for formatting."""
    headings = [*_HEADINGS, "speeches", "win rate", *_CONTROLS.values()]
    headings += ["log-odds of length", "log-odds of a question at the end", "log-odds of formatting"]
    rows = [
        [
            *(*each.head, count(each.figures["overall"]["prompts"])),
            measured(each.figures["overall"]["win_rate"], percent=True),
            *(measured(each.figures[key]["win_rate"], percent=True) for key in _CONTROLS),
            *(
                measured(each.figures["all_controlled"]["effects"].get(key))
                for key in ("length", "ending", "formatting")
            ),
        ]
        for each in contests
    ]
    notes = [
        "log-odds: effect of a difference on the odds of the reply that has more of it; one regression for all three"
    ]
    notes += ["length: log-odds for the largest possible difference", "formatting: lists, headings or bold type"]
    return report_table(
        "win-rate-controls", "Win rates corrected for length, ending and formatting", headings, rows, *notes
    )


def _shares(contests: Sequence[Contest]) -> list[ReportTable]:
    rows = [
        [
            *(*each.head, count(each.figures["overall"]["rows"])),
            *(cell(each.figures["overall"]["shares"][name], percent=True) for name in _SHARES),
        ]
        for each in contests
    ]
    notes = [
        "partly: one order is a tie",
        "contradicting verdicts in both orders count as a tie",
    ]
    headings = [*_HEADINGS, "judged pairs", *(name.replace("_", " ") for name in _SHARES)]
    return report_table("win-rate-shares", "Pairs won, tied and lost", headings, rows, *notes)


def _seeds(contests: Sequence[Contest]) -> list[ReportTable]:
    """Return a table of mean and spread over training seeds, for settings with several seeds."""
    rows = list[list[Cell]]()
    for each in contests:
        found = each.figures["seeds"]
        if found["n"] > 1:
            low, high = found["interval"]
            mean = TableFigure(found["mean"], found["sd"], low, high, found["n"], True)
            by_seed = ", ".join(f"{seed}: {100 * rate:.1f} %" for seed, rate in found["by_seed"].items())
            rows.append([*each.head, count(found["n"]), count(found["opponent_n"]), mean, by_seed])
    headings = [*_HEADINGS, "seeds", "seeds of the opponent", "win rate", "by seed"]
    notes = [
        "the interval is computed over seeds and speeches; every other comparison has one seed per model, so its spread over "
        "training seeds is unknown"
    ]
    return report_table("win-rate-seeds", "Win rates over training seeds", headings, rows, *notes)


def _contestants(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = [
        [
            *(run.title, name, words_limit(variant["length_limit"]), count(found["wanted"])),
            *(counts(found["without_text"]), count(found["over_limit"])),
        ]
        for run in runs
        for variant in run.figures["variants"]
        for name, found in variant.get("contestants", {}).items()
    ]
    headings = ["evaluation", "contestant", "length limit", "replies wanted", "without text", "longer than the limit"]
    return report_table("win-rate-replies", "Replies that could be compared", headings, rows)
