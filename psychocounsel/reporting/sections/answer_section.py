"""Section: the answer. The best setting of each kind of run with its interval, what it beats, and which gates passed."""

from collections.abc import Iterator, Sequence

from psychocounsel.reporting.blocks import Block, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import AUDIT, EVALUATION, TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparing.beating import Comparison, comparisons
from psychocounsel.reporting.sections.comparing.families import Family, families
from psychocounsel.reporting.sections.comparing.held_out_data import differing_held_out
from psychocounsel.reporting.sections.comparing.setting_groups import (
    RunSetting,
    differ,
    interval_text,
    listed,
    value_text,
)
from psychocounsel.reporting.sections.evaluations.gate_section import TONES, decision_line
from psychocounsel.studies.tables.figures import TableFigure, is_share
from psychocounsel.studies.tables.table_formats import Table

_NAME, _TITLE = "answer", "The answer"


def section(material: Material) -> Section:
    found = families(material)
    blocks: list[Block] = [block for number, family in enumerate(found, 1) for block in _of_family(family, number)]
    if not found and material.of(TRAINING, EVALUATION):
        blocks.append(
            Paragraph("There is no answer yet: no finished run has a figure by which runs are compared.", "warning")
        )
    return Section(_NAME, _TITLE, [*blocks, *_gates(material)])


def _of_family(family: Family, number: int) -> Iterator[Block]:
    best, *others = family.settings
    figure = f"{value_text(family.metric, family.figure(best).value)} ({_spread(family, best)})"
    if not others:
        yield Paragraph(
            f"{_upper(family.name)}: {best.title} has {family.metric} {figure}. There is no other setting to compare it with."
        )
        return
    order = "smallest" if family.smaller else "largest"
    equal = [each.title for each in others if family.figure(each).value == family.figure(best).value]
    tied = f", as {listed(equal)} has" if len(equal) == 1 else f", as {listed(equal)} have" if equal else ""
    yield Paragraph(
        f"{_upper(family.name)}: of {len(family.settings)} settings {best.title} has the {order} {family.metric}, {figure}{tied}."
        f" Compared by {family.metric}, because {family.reason}."
    )
    if differing := differing_held_out(family.runs):
        told = f"The runs were not measured on the same held-out data ({differ(differing)})"
        yield Paragraph(f"{told}, so this order may be an order of the data.", "bad")
    found = comparisons(family)
    yield _verdict(best, found)
    yield _table(family, found, number)


def _spread(family: Family, setting: RunSetting) -> str:
    """How sure the figure is, in words."""
    figure = family.figure(setting)
    if figure.low is None or figure.high is None:
        return "one run, so nothing is known of its spread"
    interval = interval_text(family.metric, figure.low, figure.high)
    if figure.n == 1:
        return f"95 % interval over prompts {interval}; one run, so nothing is known of its spread over seeds"
    return f"mean of {figure.n} seeds, 95 % interval {interval}"


def _verdict(best: RunSetting, found: Sequence[Comparison]) -> Paragraph:
    """What the best setting beats, and what it does not, or cannot be held against."""
    beaten = [each.other.title for each in found if each.is_beaten]
    open_ = [each.other.title for each in found if each.p is not None and not each.is_beaten]
    unknown = [each.other.title for each in found if each.p is None]
    said = [f"It beats {listed(beaten)}."] if beaten else []
    if open_:
        said.append(f"It is not shown to be better than {listed(open_)}: the difference may be chance.")
    if unknown:
        few = len(best.finished) == 1 or any(len(each.other.finished) == 1 for each in found if each.p is None)
        why = "a single run shows no spread over seeds" if few else "their runs show no spread over seeds"
        said.append(f"Whether it beats {listed(unknown)} cannot be said, because {why}.")
    if not open_ and not unknown:
        said.append("It was chosen by the figures that it is praised with: another data set decides.")
    return Paragraph(" ".join(said), "good" if beaten and not open_ and not unknown else "warning")


def _table(family: Family, found: Sequence[Comparison], number: int) -> ReportTable:
    best, percent = family.settings[0], is_share(family.metric)
    rows = [
        [
            each.other.title,
            each.other.count,
            family.figure(each.other),
            TableFigure(
                each.difference, None, each.low, each.high, len(best.runs) + len(each.other.runs), percent, False
            ),
            None if each.p is None else TableFigure(each.p, spreads=False),
            "yes" if each.is_beaten else "no" if each.p is not None else "cannot be said",
        ]
        for each in found
    ]
    notes = [f"difference: {best.title} minus the other, with Welch's 95 % interval over seeds in brackets"]
    notes += ["p: Welch's t test, by Holm for all rows; beaten: p below 0.05"]
    headings = ["other setting", "runs", family.metric, "difference", "p", "beaten"]
    title = f"{best.title} against the other settings"
    return ReportTable(f"answer-comparisons-{number}", Table(title, headings, [*rows], notes))


def _gates(material: Material) -> Iterator[Paragraph]:
    """Which gates passed: those of studies, of audits, and the limits of `guard` and of health."""
    for study in material.studies:
        for name, passed in study.gates.items():
            said = {True: "passed", False: "did not pass", None: "has not been decided yet"}[passed]
            yield Paragraph(
                f"Gate {name} of study {study.name} {said}.", {True: "good", False: "bad", None: "warning"}[passed]
            )
    for run in material.of(TRAINING):
        yield from _guard(run)
    for run in material.of(AUDIT):
        gate = run.extra.get("audit", {}).get("gate") or {}
        if gate.get("limit") is not None:
            said = f"Gate of audit {run.title}: {gate.get('verdict')} (limit {gate['limit']:g} of the blind accuracy)."
            yield Paragraph(said, {"passed": "good", "refused": "bad"}.get(str(gate.get("verdict")), "warning"))
    yield from _of_safety(material.of(EVALUATION))
    for run in material.of(EVALUATION):
        count = run.figure("limits_exceeded") if run.what == "health" else None
        if count is not None:
            said = "keeps every limit" if not count else f"exceeds {count:.0f} {'limit' if count == 1 else 'limits'}"
            yield Paragraph(f"{run.title}: health {said}.", "bad" if count else "good")


def _of_safety(runs: Sequence[RunMaterial]) -> Iterator[Paragraph]:
    """The decisions of evaluation=gate, and hard flags of safety and of sessions."""
    for run in runs:
        if run.what == "gate" and run.figures.get("decision"):
            said = f"{decision_line(run)} It holds for these speeches and simulated clients, not for clients."
            yield Paragraph(said, TONES.get(run.figures["decision"], "warning"))
        if run.what in ("safety", "session") and (count := run.figure("hard_flags")):
            replies = "reply has a hard flag" if count == 1 else "replies have a hard flag"
            yield Paragraph(f"{run.title}: {count:.0f} {replies}; read them before anything else.", "bad")


def _guard(run: RunMaterial) -> Iterator[Paragraph]:
    """The limits of `guard` at the last evaluation."""
    last = (run.summary.get("metrics") or {}).get("last") or {}
    marks = {key.removeprefix("guard/"): value for key, value in last.items() if key.startswith("guard/")}
    if marks:
        bad = [name for name, value in marks.items() if value]
        said = f"exceeds the limit of {listed(bad)}" if bad else f"keeps the limits of {listed([*marks])}"
        yield Paragraph(f"{run.title} {said} at its last evaluation.", "bad" if bad else "good")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
