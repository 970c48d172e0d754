"""Section "The answer": what each run shows in a sentence, the settings that the best one beats, the gates, a chart of all
comparisons, and what is missing to be sure.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from psychocounsel.blocks.cells import percent_text, points, report_table
from psychocounsel.blocks.conclusions import HALF, UNDECIDED, Conclusion, against_half, bar_of
from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell, Table, TableFigure
from psychocounsel.cluster.states import short
from psychocounsel.evaluation.best_of.show import best_of_conclusions
from psychocounsel.evaluation.external.show import external_conclusions
from psychocounsel.evaluation.gate.show import TONES, decision_line
from psychocounsel.evaluation.health.show import health_conclusions
from psychocounsel.evaluation.reward.show import ranking_conclusion, reward_conclusions
from psychocounsel.evaluation.safety.show import safety_conclusions
from psychocounsel.evaluation.session.show import session_conclusions
from psychocounsel.evaluation.winrate.show import winrate_conclusions
from psychocounsel.metrics.intervals import TWO_SIDED_LEVEL
from psychocounsel.metrics.win_rates import holm
from psychocounsel.reporting.material import AUDIT, EVALUATION, TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparisons import (
    Family,
    RunSetting,
    differ,
    differing_held_out,
    families,
    interval_text,
    is_reward_model,
    listed,
    metric_name,
    setting_title,
    value_text,
)
from psychocounsel.reporting.sections.evaluated import reward_figures
from psychocounsel.studies.tables.runs import is_share

# Comparison with the other settings: Welch's t test over seeds, with Holm's correction


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
        return self.p is not None and self.p < 1 - TWO_SIDED_LEVEL


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
    interval = test.confidence_interval(TWO_SIDED_LEVEL)
    if not all(map(math.isfinite, (test.pvalue, interval.low, interval.high))):
        return Comparison(setting, difference)
    return Comparison(setting, difference, float(interval.low), float(interval.high), float(test.pvalue))


# Conclusions of runs: those of evaluations are the evaluations' own, which the terminal and summary.json have, too

_CONCLUSIONS: Mapping[str, Callable[[Any], list[Conclusion]]] = {
    "winrate": winrate_conclusions,
    "health": health_conclusions,
    "safety": safety_conclusions,
    "session": session_conclusions,
    "best_of": best_of_conclusions,
    "external": external_conclusions,
}
Concluded = tuple[RunMaterial, Conclusion]
_MOST_TOLD = 6  # evaluations of one kind: the conclusions of more are only in the table and the chart


def _of_evaluation(run: RunMaterial, material: Material) -> list[Conclusion]:
    if run.what == "reward" and "metrics" in run.summary:
        return reward_conclusions(reward_figures(run))
    if run.what not in _CONCLUSIONS or not run.figures:
        return []
    found = _CONCLUSIONS[run.what](run.figures)
    if run.what == "winrate":
        about = _about_judges(run, material)
        found = [replace(each, cautions=[*about, *each.cautions]) for each in found]
    return found


def _unsaid_doubts(run: RunMaterial) -> list[str]:
    """Return the doubts of summary.json that the warnings of the figures, and so the conclusions, lack: unfinished models."""
    said = {str(line).removeprefix("warning: ") for line in run.figures.get("warnings") or []}
    return [doubt for doubt in run.summary.get("doubts") or [] if doubt not in said]


def _about_judges(run: RunMaterial, material: Material) -> list[str]:
    """Return, for each judge that is a local reward model, its own accuracy and what reading gains it, if measured."""
    lines = []
    section = run.config.get("judge") or {}
    for judge in section.get("members") or [section]:
        reward = judge.get("reward") or {}
        if path := reward.get("path"):
            rewards = [of for of in material.of(EVALUATION) if of.what == "reward" and _reads(of, path)]
            measured = [of for of in rewards if None not in (of.figure("accuracy"), of.figure("pairs"))]
            lines.append(_about_judge(str(judge.get("name") or "reward"), str(path), measured))
    return lines


def _about_judge(name: str, path: str, measured: Sequence[RunMaterial]) -> str:
    if not measured:
        return f"How well {name} judges is not in this report: psychocounsel evaluate reward.path={short(Path(path))}"
    summary = measured[0].summary
    metrics = summary["metrics"]
    rate = {"accuracy": metrics["accuracy"], "low": metrics.get("accuracy_low"), "high": metrics.get("accuracy_high")}
    line = f"{name} itself ranks {percent_text(rate)} of {metrics['pairs']} pairs rightly"
    reading = next(iter((summary.get("reading") or {}).values()), None)
    if reading is None:
        return f"{line}; what it gains by reading the client was not measured."
    gain = reading["gains"]["swapped"]
    low, high = (f"{100 * gain[end]:+.1f}" for end in ("low", "high"))
    return f"{line}, and gains {100 * gain['gain']:+.1f} points by reading the client ({low} to {high})."


def _reads(run: RunMaterial, path: str) -> bool:
    own = (run.config.get("reward") or {}).get("path")
    return isinstance(own, str) and Path(own).resolve() == Path(path).resolve()


def _of_training(run: RunMaterial) -> list[Conclusion]:
    """Return what a finished training run shows by itself; nothing if it has no figure that a person can read."""
    name = run.path.name if not run.settings else setting_title(run)

    def rate(key: str) -> dict[str, Any]:
        return {"value": run.figure(key), "low": run.figure(f"{key}_low"), "high": run.figure(f"{key}_high")}

    if is_reward_model(run) and run.figure("eval/accuracy") is not None:
        return [ranking_conclusion(name, rate("eval/accuracy"), None)]
    for key in ("eval/win_rate", "eval/accuracy"):
        if run.figure(key) is not None:
            return [_of_policy(name, key, rate(key))]
    return []


def _of_policy(name: str, key: str, rate: Mapping[str, Any]) -> Conclusion:
    side = against_half(rate["low"], rate["high"])
    wins = key == "eval/win_rate"
    word = {1: "wins" if wins else "learned", -1: "loses" if wins else "unlearned", None: UNDECIDED}[side]
    figure, remark = percent_text(rate, "value"), f" {UNDECIDED.capitalize()}." if side is None else ""
    if wins:
        text = f"{name} wins against itself before training in {figure} of held-out speeches.{remark}"
        cautions = [
            "The reward that trained it is the judge: a win may only show that it learned to please this reward."
        ]
        tone = {1: "warning", -1: "bad", None: "undecided"}[side]
        missing = [f"{name}: evaluation=winrate with another judge, and evaluation=health"]
        return Conclusion(word, text, tone, cautions, missing, bar_of(f"{name}: wins against before", rate))
    text = f"{name} prefers the better reply in {figure} of held-out pairs.{remark} This says nothing about its own replies."
    missing = [f"{name}: evaluation=winrate and evaluation=health, which read its replies"]
    tone = {1: "plain", -1: "bad", None: "undecided"}[side]
    return Conclusion(word, text, tone, [], missing, bar_of(f"{name}: prefers the better reply", rate))


def conclusions_of(material: Material) -> list[Concluded]:
    """Return the conclusions of all finished runs: of evaluations, and of training runs that none of them evaluates."""
    evaluations = [run for run in material.of(EVALUATION) if run.is_finished]
    found = [
        (run, replace(conclusion, cautions=[*_unsaid_doubts(run), *conclusion.cautions]))
        for run in evaluations
        for conclusion in _of_evaluation(run, material)
    ]
    order = [*_CONCLUSIONS, "reward"]
    found.sort(key=lambda pair: order.index(pair[0].what))
    evaluated = {run.evaluates for run, _ in found if run.what in ("winrate", "reward")}
    trained = [run for run in material.of(TRAINING) if run.is_finished and run.path not in evaluated]
    return found + [(run, conclusion) for run in trained for conclusion in _of_training(run)]


# The section

_NAME, _TITLE = "answer", "The answer"


def section(material: Material) -> Section:
    groups, concluded = families(material), conclusions_of(material)
    compared = [family for family in groups if len(family.settings) > 1]
    told = _told(concluded, compared)
    with_doubts = {id(run) for run, conclusion in concluded if conclusion.paragraph in told}
    several = [block for number, family in enumerate(compared, 1) for block in _of_family(family, number, with_doubts)]
    gates: list[Block] = [*_gates(material)]
    if not groups and not concluded and material.of(TRAINING, EVALUATION):
        gates = [Paragraph("No answer yet: no finished run has a figure to compare runs by.", "warning"), *gates]
    first = [block for block in several if isinstance(block, Paragraph)]
    blocks: list[Block] = [*told, *first, *gates, *_forest(concluded), *_missing(concluded)]
    tables = [block for block in several if not isinstance(block, Paragraph)]
    return Section(_NAME, _TITLE, [*blocks, *tables, *_verdict_table(concluded)])


def _told(concluded: Sequence[Concluded], compared: Sequence[Family]) -> list[Paragraph]:
    """Return the conclusions as paragraphs; those of many runs of one kind, and of compared ones, are in the table."""
    kinds = Counter((run.kind, run.what) for run, _ in concluded)
    trained = {id(run) for family in compared for run in family.runs if run.kind == TRAINING}
    return [
        conclusion.paragraph
        for run, conclusion in concluded
        if kinds[run.kind, run.what] <= _MOST_TOLD and id(run) not in trained
    ]


def _forest(concluded: Sequence[Concluded]) -> list[Chart]:
    bars = [bar for _, conclusion in concluded for bar in conclusion.bars]
    titles = Counter(bar.title for bar in bars)
    names = [
        f"{run.title}: {bar.title}" if titles[bar.title] > 1 else bar.title
        for run, conclusion in concluded
        for bar in conclusion.bars
    ]
    figures = {
        place: {"value": 100 * bar.value, "low": 100 * bar.low, "high": 100 * bar.high}
        for place, bar in enumerate(bars)
    }
    curves = points("share with its 95 % interval", figures, "comparison", 0, 1)
    title = "All comparisons: right of the line better than chance or than the opponent"
    return [Chart(_NAME, title, "per cent", curves, ticks=names, reference=100 * HALF)] if curves else []


def _missing(concluded: Sequence[Concluded]) -> Iterator[Paragraph]:
    """Yield what would make the answer sure, each need once."""
    needs = [need for _, conclusion in concluded for need in conclusion.missing]
    trained = [run for run, _ in concluded if run.kind == TRAINING or run.evaluates is not None]
    if trained and len({run.seed for run in trained}) == 1:
        needs.append("More training seeds: a single one shows no spread (train -m seed=1,2,3)")
    if needs:
        yield Paragraph(
            "\n".join(["What is missing to be sure:", *(f"\u2022 {need}" for need in dict.fromkeys(needs))])
        )


def _verdict_table(concluded: Sequence[Concluded]) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [run.title, run.what, *_bar_cells(conclusion), conclusion.word] for run, conclusion in concluded
    ]
    return report_table(_NAME, "All verdicts", ["run", "of", "figure", "share", "verdict"], rows)


def _bar_cells(conclusion: Conclusion) -> list[Cell]:
    for bar in conclusion.bars:
        return [bar.title, TableFigure(bar.value, None, bar.low, bar.high, 1, True)]
    return ["", None]


def _of_family(family: Family, number: int, with_doubts: set[int]) -> Iterator[Block]:
    """Yield the family's blocks. `with_doubts`: the runs whose doubts stand on the page already, as `id`."""
    best, *others = family.settings
    name = metric_name(family.metric)
    figure = f"{value_text(family.metric, family.figure(best).value)} ({_spread(family, best)})"
    order = "smallest" if family.smaller else "largest"
    equal = [setting.title for setting in others if family.figure(setting).value == family.figure(best).value]
    tied = f", and so has {listed(equal)}" if len(equal) == 1 else f", and so have {listed(equal)}" if equal else ""
    yield Paragraph(
        f"{_upper(family.name)}: of {len(family.settings)} settings {best.title} has the {order} {name}, {figure}{tied}."
        f" Compared by {name}, because {family.reason}."
    )
    if differing := differing_held_out(family.runs):
        warning = f"The runs were evaluated on different held-out data ({differ(differing)})"
        yield Paragraph(f"{warning}, so the order may come from the data.", "bad")
    results, doubts = comparisons(family), doubts_of(family)
    yield _verdict(best, results, bool(doubts))
    if any(id(run) not in with_doubts for run in family.runs):
        yield from (Paragraph(doubt, "bad") for doubt in doubts)
    yield _table(family, results, number)


def _spread(family: Family, setting: RunSetting) -> str:
    """Return the figure's uncertainty in words."""
    figure = family.figure(setting)
    if figure.low is None or figure.high is None:
        return (
            "one run, so its spread is unknown"
            if figure.n == 1
            else f"the same in {figure.n} seeds, so without a spread"
        )
    interval = interval_text(family.metric, figure.low, figure.high)
    if figure.n == 1:
        return f"95 % interval over prompts {interval}; one run, so its spread over seeds is unknown"
    return f"mean of {figure.n} seeds, 95 % interval {interval}"


def doubts_of(family: Family) -> list[str]:
    """Return why figures of the family's runs show no winner, each once, after the titles of its runs."""
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
    return Paragraph(
        " ".join(sentences),
        "good" if beaten and not (open_ or unknown or doubted) else "warning" if doubted else "undecided",
    )


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
    """Yield paragraphs on gates of studies, audits and evaluations, and limits of `guard`."""
    for study in material.studies:
        for name, passed in study.gates.items():
            verdict = {True: "passed", False: "did not pass", None: "has not been decided yet"}[passed]
            yield Paragraph(
                f"Gate {name} of study {study.name} {verdict}.", {True: "good", False: "bad", None: "undecided"}[passed]
            )
    for run in material.of(TRAINING):
        yield from _guard(run)
    for run in material.of(AUDIT):
        gate = run.extra.get("audit", {}).get("gate") or {}
        if gate.get("limit") is not None:
            line = f"Gate of audit {run.title}: {gate.get('verdict')} (limit of the blind accuracy: {gate['limit']:g})."
            yield Paragraph(line, TONES.get(str(gate.get("verdict")), "undecided"))
    for run in material.of(EVALUATION):
        if run.what == "gate" and run.figures.get("decision"):
            decision = decision_line(run.title, run.figures)
            sentence = f"{decision} It holds for these speeches and simulated clients, not for real clients."
            yield Paragraph(sentence, TONES.get(run.figures["decision"], "undecided"))


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
