"""Section on win rates: how often judges prefer the evaluated model's replies, as written and corrected for length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.blocks.cells import (
    Figures,
    cell,
    count,
    counts,
    exact,
    measured,
    name_in,
    points,
    report_table,
    words_limit,
)
from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell, TableFigure
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluated import evaluations, without_figures

# Contests and their charts


@dataclass(frozen=True)
class Contest:
    """An opponent of an evaluation under one length limit, with the figures of the evaluated model against it."""

    run: RunMaterial
    opponent: str
    limit: int | None
    figures: Figures

    @property
    def model(self) -> str:
        return str(self.run.figures["model"])

    @property
    def head(self) -> list[Cell]:
        return [self.run.title, self.model, self.opponent, words_limit(self.limit)]

    def title(self, runs: Sequence[RunMaterial]) -> str:
        return name_in(self.run.title, f"{self.model} against {self.opponent}", len(runs) > 1, words_limit(self.limit))


def contests_of(run: RunMaterial) -> Iterator[Contest]:
    for variant in run.figures["variants"]:
        for opponent, found in variant["opponents"].items():
            yield Contest(run, opponent, variant["length_limit"], found)


def overview_chart(contests: Sequence[Contest], runs: Sequence[RunMaterial]) -> list[Chart]:
    """Return a chart of both main figures of every contest, side by side."""
    curves = []
    for number, (title, key) in enumerate({"win rate": "overall", "at equal length": "length_controlled"}.items()):
        rates = {place: each.figures[key]["win_rate"] for place, each in enumerate(contests)}
        curves += points(title, rates, "comparison", number, 2)
    ticks = [each.title(runs) for each in contests]
    notes = ["At one half, both models are preferred equally often.", "Bars are 95 % intervals over speeches."]
    title = "Win rates with their intervals"
    chart = Chart("win-rate-overview", title, "win rate", curves, ticks=ticks, reference=0.5, notes=notes)
    return [chart] if curves else []


def principle_chart(contests: Sequence[Contest], runs: Sequence[RunMaterial]) -> list[Chart]:
    """Return a chart of the win rates on each principle, for contests whose judges rate principles."""
    shown = [each for each in contests if each.figures["principles"]]
    curves = []
    for number, each in enumerate(shown):
        found = each.figures["principles"]
        rates = {place: found[name]["win_rate"] for place, name in enumerate(PRINCIPLES) if name in found}
        curves += points(each.title(runs), rates, "principle", number, len(shown))
    notes = ["At one half, both models are preferred equally often on this principle."]
    title = "Win rates on each principle"
    chart = Chart("win-rate-principles", title, "win rate", curves, ticks=PRINCIPLES, reference=0.5, notes=notes)
    return [chart] if curves else []


# Judges: position bias, agreement with each other and with experts, and a ranking of models

_BIAS = ("inconsistent", "half_consistent", "first_place")


def judge_blocks(runs: Sequence[RunMaterial]) -> list[Block]:
    """Return tables of judges, and a warning for each run without a comparison with experts."""
    found: list[Block] = []
    for run in runs:
        if not any(variant["experts"] for variant in run.figures["variants"]):
            said = "no expert has compared these replies, so the judges' agreement with people is unknown"
            found.append(Paragraph(f"{run.title}: {said}.", "warning"))
    return [*found, *_biases(runs), *_agreements(runs), *_rankings(runs)]


def _variants(runs: Sequence[RunMaterial]) -> Iterator[tuple[RunMaterial, Any, list[Cell]]]:
    for run in runs:
        for variant in run.figures["variants"]:
            yield run, variant, [run.title, words_limit(variant["length_limit"])]


def _biases(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    headings = [
        "evaluation",
        "length limit",
        "judge",
        "pairs in both orders",
        "contradicts itself",
        "a tie in one order",
    ]
    headings += ["prefers the first place", "log-odds of the first place", "chance of an error", "all its calls"]
    rows = [
        [
            *(*head, name, count(bias["rows"])),
            *(measured(bias[key], percent=True) for key in _BIAS),
            *(measured(bias["shift"]), measured(bias["error"], percent=True)),
            counts(run.figures["verdicts"].get(name, {})),
        ]
        for run, variant, head in _variants(runs)
        for name, bias in variant["judges"].items()
    ]
    notes = ["no bias: 50 % of first places, log-odds of 0", "contradicting verdicts count as ties"]
    notes += ["a reward model scores each reply alone, so order has no effect"]
    notes += ["calls: by outcome, over all length limits; equal replies are ties without a call"]
    return report_table("judge-bias", "Judges: position bias", headings, rows, *notes)


def _agreements(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    headings = ["evaluation", "length limit", "judge", "with", "pairs", "speeches", "equal labels", "kappa", "AC1"]
    rows = list[list[Cell]]()
    for _, variant, head in _variants(runs):
        rows += [[*head, *each["judges"], *_agreement(each["agreement"])] for each in variant["agreement"]]
        rows += [
            [*head, each["judge"], f"expert {each['expert']}", *_agreement(each["agreement"])]
            for each in variant["experts"]
        ]
    notes = [
        "labels: better, tie or worse; kappa (Cohen) and AC1 (Gwet) are corrected for chance",
        "intervals are computed over speeches",
    ]
    return report_table(
        "judge-agreement", "Agreement of judges with each other and with experts", headings, rows, *notes
    )


def _agreement(found: Any) -> list[Cell]:
    figures = [measured(found["raw"], percent=True), measured(found["kappa"]), measured(found["ac1"])]
    return [count(found["rows"]), count(found["prompts"]), *figures]


def _rankings(runs: Sequence[RunMaterial]) -> list[Block]:
    rows, said = list[list[Cell]](), list[Block]()
    for run, variant, head in _variants(runs):
        ranking = variant["ranking"]
        if ranking is None:
            continue
        rows += [
            [*head, name, measured(each["elo"]), measured(each["log_odds"])]
            for name, each in ranking["strengths"].items()
        ]
        if len(ranking["groups"]) > 1:
            groups = " | ".join(", ".join(group) for group in ranking["groups"])
            said.append(Paragraph(f"{run.title}: no chain of comparisons links these groups: {groups}.", "warning"))
        elif not ranking["bounded"]:
            open_ = "one model won, or lost, every comparison, so its distance to the others is unbounded on one side"
            said.append(Paragraph(f"{run.title}: {open_}.", "warning"))
    headings = ["evaluation", "length limit", "model", "Elo", "log-odds"]
    notes = [
        "Bradley-Terry strengths: 400 Elo points are odds of 10 to 1, the mean is 1000; intervals are computed over speeches"
    ]
    return [*report_table("bradley-terry", "One scale for all models", headings, rows, *notes), *said]


# Win rates by principle, and by judge, risk and topic

Contested = tuple[list[Cell], Figures]  # the first cells of a comparison's rows, and its figures
_HEADINGS = ["evaluation", "model", "against", "length limit"]
_KINDS = {"by_judge": "judge", "risk": "risk", "topics": "topic"}


def slice_tables(contests: Sequence[Contested]) -> list[ReportTable]:
    """Return a table by principle, and a table by judge, risk and topic."""
    headings = [*_HEADINGS, "principle", "speeches", "judged pairs", "win rate", "note"]
    rows = [
        [*head, name, *_slice_cells(figures["principles"][name])]
        for head, figures in contests
        for name in PRINCIPLES
        if name in figures["principles"]
    ]
    few = "few speeches: fewer than 30, too few for a conclusion"
    notes = [
        "only judges that rate principles are counted; reward models do not",
        "intervals are computed over speeches",
        few,
    ]
    tables = report_table("win-rate-by-principle", "Win rates on each principle", headings, rows, *notes)
    rows = [row for head, figures in contests for row in _slices(head, figures)]
    headings = [*_HEADINGS, "kind", "slice", "speeches", "judged pairs", "win rate", "note"]
    headings += ["judge and experts agree", "pairs judged by experts"]
    notes = ["intervals are computed over speeches, without correction for the number of slices", few]
    return tables + report_table("win-rate-slices", "Win rates by judge, risk and topic", headings, rows, *notes)


def _slices(head: list[Cell], figures: Figures) -> Iterator[list[Cell]]:
    for key, kind in _KINDS.items():
        for name, found in figures[key].items():
            known = figures["experts"]["by_judge"].get(name) if key == "by_judge" else None
            experts = [measured(known["raw"], percent=True), count(known["rows"])] if known else [None, None]
            yield [*head, kind, name, *_slice_cells(found), *experts]


def _slice_cells(found: Figures) -> list[Cell]:
    few = "few speeches" if found["small"] else ""
    return [count(found["prompts"]), count(found["rows"]), measured(found["win_rate"], percent=True), few]


# The section

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
