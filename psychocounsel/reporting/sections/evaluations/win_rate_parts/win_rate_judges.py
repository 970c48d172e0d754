"""Blocks on the judges of win rates: position bias, agreement with each other and with experts, and a ranking of models."""

from collections.abc import Iterator, Sequence
from typing import Any

from psychocounsel.reporting.blocks import Block, Paragraph, ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import count, counts, measured, report_table, words_limit
from psychocounsel.studies.tables.formats import Cell

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
