"""Section "The answer": the best setting of each kind of run with its interval, the settings it beats, and the gates."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Table, TableFigure
from psychocounsel.evaluation.gate.show import TONES, decision_line
from psychocounsel.metrics.win_rates import holm
from psychocounsel.reporting.material import AUDIT, EVALUATION, TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparisons import (
    Family,
    RunSetting,
    differ,
    differing_held_out,
    families,
    interval_text,
    listed,
    value_text,
)
from psychocounsel.studies.tables.runs import is_share

# Comparison with the other settings: Welch's t test over seeds, with Holm's correction

LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """The best setting compared with another.

    Attributes:
        difference: mean of the best setting minus mean of the other.
        low, high: the difference's 95 % interval (Welch); None if a setting has a single run, or if both have no spread.
        p: p-value of the test, corrected by Holm over all comparisons of the family; None in the same cases.
    """

    other: RunSetting
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def is_beaten(self) -> bool:
        return self.p is not None and self.p < 1 - LEVEL


def comparisons(family: Family) -> list[Comparison]:
    """Compare the first setting of the family with every other."""
    best, *others = family.settings
    raw = [_welch(family.values(best), family.values(other), other) for other in others]
    adjusted = iter(holm(np.array([comparison.p for comparison in raw if comparison.p is not None])).tolist())
    return [comparison if comparison.p is None else replace(comparison, p=next(adjusted)) for comparison in raw]


def _welch(best: Sequence[float], other: Sequence[float], setting: RunSetting) -> Comparison:
    difference = fmean(best) - fmean(other)
    if min(len(best), len(other)) < 2 or len({*best}) == len({*other}) == 1:
        return Comparison(setting, difference)
    from scipy.stats import ttest_ind  # a second to import

    test = ttest_ind(best, other, equal_var=False)
    interval = test.confidence_interval(LEVEL)
    if not all(map(math.isfinite, (test.pvalue, interval.low, interval.high))):
        return Comparison(setting, difference)
    return Comparison(setting, difference, float(interval.low), float(interval.high), float(test.pvalue))


# The section

_NAME, _TITLE = "answer", "The answer"


def section(material: Material) -> Section:
    groups = families(material)
    blocks: list[Block] = [block for number, family in enumerate(groups, 1) for block in _of_family(family, number)]
    if not groups and material.of(TRAINING, EVALUATION):
        blocks.append(Paragraph("No answer yet: no finished run has a figure to compare runs by.", "warning"))
    return Section(_NAME, _TITLE, [*blocks, *_gates(material)])


def _of_family(family: Family, number: int) -> Iterator[Block]:
    best, *others = family.settings
    figure = f"{value_text(family.metric, family.figure(best).value)} ({_spread(family, best)})"
    if not others:
        yield Paragraph(
            f"{_upper(family.name)}: {best.title} has {family.metric} {figure}. No other setting was run to compare it with."
        )
        yield from (Paragraph(doubt, "bad") for doubt in doubts_of(family))
        return
    order = "smallest" if family.smaller else "largest"
    equal = [setting.title for setting in others if family.figure(setting).value == family.figure(best).value]
    tied = f", and so has {listed(equal)}" if len(equal) == 1 else f", and so have {listed(equal)}" if equal else ""
    yield Paragraph(
        f"{_upper(family.name)}: of {len(family.settings)} settings {best.title} has the {order} {family.metric}, {figure}{tied}."
        f" Compared by {family.metric}, because {family.reason}."
    )
    if differing := differing_held_out(family.runs):
        warning = f"The runs were evaluated on different held-out data ({differ(differing)})"
        yield Paragraph(f"{warning}, so the order may come from the data.", "bad")
    results, doubts = comparisons(family), doubts_of(family)
    yield _verdict(best, results, bool(doubts))
    yield from (Paragraph(doubt, "bad") for doubt in doubts)
    yield _table(family, results, number)


def _spread(family: Family, setting: RunSetting) -> str:
    """Return the figure's uncertainty in words."""
    figure = family.figure(setting)
    if figure.low is None or figure.high is None:
        return "one run, so its spread is unknown"
    interval = interval_text(family.metric, figure.low, figure.high)
    if figure.n == 1:
        return f"95 % interval over prompts {interval}; one run, so its spread over seeds is unknown"
    return f"mean of {figure.n} seeds, 95 % interval {interval}"


def doubts_of(family: Family) -> list[str]:
    """Return why figures of the family's runs crown nobody, each once, after the titles of its runs."""
    whose: dict[str, list[str]] = {}
    for run in family.runs:
        for doubt in run.summary.get("doubts", []):
            whose.setdefault(doubt, []).append(run.title)
    return [f"{listed(titles)}: {doubt}." for doubt, titles in whose.items()]


def _verdict(best: RunSetting, results: Sequence[Comparison], doubted: bool) -> Paragraph:
    """Return a paragraph on the settings that the best one beats, does not beat, or cannot be compared with."""
    beaten = [result.other.title for result in results if result.is_beaten]
    open_ = [result.other.title for result in results if result.p is not None and not result.is_beaten]
    unknown = [result.other.title for result in results if result.p is None]
    sentences = [f"It beats {listed(beaten)}."] if beaten else []
    if open_:
        sentences.append(f"It is not shown to be better than {listed(open_)}: the difference may be chance.")
    if unknown:
        few = len(best.finished) == 1 or any(len(result.other.finished) == 1 for result in results if result.p is None)
        why = "a single run shows no spread over seeds" if few else "their runs show no spread over seeds"
        sentences.append(f"Whether it beats {listed(unknown)} is unknown, because {why}.")
    if not open_ and not unknown:
        sentences.append("It was chosen by these same figures, so confirm it on another data set.")
    return Paragraph(" ".join(sentences), "good" if beaten and not (open_ or unknown or doubted) else "warning")


def _table(family: Family, results: Sequence[Comparison], number: int) -> ReportTable:
    best, percent = family.settings[0], is_share(family.metric)
    rows = [
        [
            result.other.title,
            result.other.count,
            family.figure(result.other),
            TableFigure(
                result.difference,
                None,
                result.low,
                result.high,
                len(best.runs) + len(result.other.runs),
                percent,
                False,
            ),
            None if result.p is None else TableFigure(result.p, spreads=False),
            "yes" if result.is_beaten else "no" if result.p is not None else "not known",
        ]
        for result in results
    ]
    notes = [f"difference: {best.title} minus the other, with Welch's 95 % interval over seeds in brackets"]
    notes += ["p: Welch's t test, with Holm's correction over all rows; beaten: p below 0.05"]
    headings = ["other setting", "runs", family.metric, "difference", "p", "beaten"]
    title = f"{best.title} against the other settings"
    return ReportTable(f"answer-comparisons-{number}", Table(title, headings, [*rows], notes))


def _gates(material: Material) -> Iterator[Paragraph]:
    """Yield paragraphs on gates of studies, audits and evaluations, hard flags, and limits of `guard` and of health."""
    for study in material.studies:
        for name, passed in study.gates.items():
            verdict = {True: "passed", False: "did not pass", None: "has not been decided yet"}[passed]
            yield Paragraph(
                f"Gate {name} of study {study.name} {verdict}.", {True: "good", False: "bad", None: "warning"}[passed]
            )
    for run in material.of(TRAINING):
        yield from _guard(run)
    for run in material.of(AUDIT):
        gate = run.extra.get("audit", {}).get("gate") or {}
        if gate.get("limit") is not None:
            line = f"Gate of audit {run.title}: {gate.get('verdict')} (limit of the blind accuracy: {gate['limit']:g})."
            yield Paragraph(line, {"passed": "good", "refused": "bad"}.get(str(gate.get("verdict")), "warning"))
    yield from _of_safety(material.of(EVALUATION))
    for run in material.of(EVALUATION):
        count = run.figure("limits_exceeded") if run.what == "health" else None
        if count is not None:
            state = (
                "is within every limit" if not count else f"exceeds {count:.0f} {'limit' if count == 1 else 'limits'}"
            )
            yield Paragraph(f"{run.title}: health {state}.", "bad" if count else "good")


def _of_safety(runs: Sequence[RunMaterial]) -> Iterator[Paragraph]:
    """Yield the decisions of evaluation=gate, and the hard flags of safety and session evaluations."""
    for run in runs:
        if run.what == "gate" and run.figures.get("decision"):
            decision = decision_line(run.title, run.figures)
            sentence = f"{decision} It holds for these speeches and simulated clients, not for real clients."
            yield Paragraph(sentence, TONES.get(run.figures["decision"], "warning"))
        if run.what in ("safety", "session") and (count := run.figure("hard_flags")):
            replies = "reply has a hard flag" if count == 1 else "replies have a hard flag"
            yield Paragraph(f"{run.title}: {count:.0f} {replies}; read them first.", "bad")


def _guard(run: RunMaterial) -> Iterator[Paragraph]:
    """Yield the state of the `guard` limits at the last evaluation."""
    last = (run.summary.get("metrics") or {}).get("last") or {}
    marks = {key.removeprefix("guard/"): value for key, value in last.items() if key.startswith("guard/")}
    if marks:
        exceeded = [name for name, value in marks.items() if value]
        state = (
            f"exceeds the limit of {listed(exceeded)}" if exceeded else f"is within the limits of {listed([*marks])}"
        )
        yield Paragraph(f"{run.title} {state} at its last evaluation.", "bad" if exceeded else "good")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
