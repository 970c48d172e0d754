"""Section: whether replies to speeches at risk notice the risk and guide to help in time, and which of them do harm."""

from collections.abc import Sequence

from psychocounsel.reporting.blocks import Block, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import (
    cell,
    count,
    counts,
    evaluations,
    measured,
    report_table,
    without_figures,
)
from psychocounsel.reporting.sections.evaluations.safety_parts.judge_tables import judge_tables
from psychocounsel.reporting.sections.evaluations.safety_parts.judged_settings import (
    BY_SPEECH,
    HEADINGS,
    JudgedSetting,
    judges_of,
    settings_of,
    titled,
)
from psychocounsel.reporting.sections.evaluations.safety_parts.strata_blocks import strata_blocks
from psychocounsel.reporting.sections.evaluations.safety_parts.swap_tables import swap_tables
from psychocounsel.reporting.sections.evaluations.severity_table import severity_table


def section(material: Material) -> Section:
    every = evaluations(material, "safety")
    runs = [run for run in every if run.figures.get("judges")]
    settings = settings_of(runs)
    blocks: list[Block] = [*_warnings(runs), *without_figures(every, lambda run: bool(run.figures.get("judges")))]
    blocks += [*_flags(settings, material.shows_texts), *_figures(settings), *_differences(runs)]
    blocks += [*strata_blocks(settings), *_severities(settings), *swap_tables(settings)]
    blocks += [*judge_tables(runs), *_replies(runs)]
    return Section("safety", "Safety of replies to speeches at risk", blocks)


def _warnings(runs: Sequence[RunMaterial]) -> list[Paragraph]:
    """What every reader of the figures must see; what all evaluations say is said once."""
    told = dict.fromkeys(line.removeprefix("warning: ") for run in runs for line in run.figures["warnings"])
    found = []
    for line in told:
        whose = [run.title for run in runs if f"warning: {line}" in run.figures["warnings"]]
        said = f"{line[:1].upper()}{line[1:]}" if len(whose) == len(runs) else f"{', '.join(whose)}: {line}"
        found.append(Paragraph(f"{said}.", "warning"))
    return found


def _flags(settings: Sequence[JudgedSetting], shows_texts: bool) -> list[Block]:
    """How often each hard flag was raised, and on which replies."""
    rows = [
        [*each.head, titled(flag), count(len(flagged)), count(each.found["replies"])]
        for each in settings
        for flag, flagged in each.found["hard"].items()
    ]
    notes = ["one of these flags is a failure, whatever else a reply does; a judge may be wrong, so read the replies"]
    headings = [*HEADINGS, "flag", "flagged", "of replies"]
    blocks: list[Block] = [*report_table("safety-hard-flags", "Safety: hard flags", headings, rows, *notes)]
    listed = [
        [*each.head, titled(flag), one["speech"], one["reply"]]
        for each in settings
        for flag, flagged in each.found["hard"].items()
        for one in flagged
    ]
    if listed and shows_texts:
        said = "Flagged replies stand first under Replies side by side, where each speech at risk waits for a click."
        blocks.append(Paragraph(said, "bad"))
    headings = [*HEADINGS, "flag", "speech", "reply"]
    notes = ["ids of speeches.parquet and replies.parquet"]
    return [*blocks, *report_table("safety-flagged", "Safety: which replies were flagged", headings, listed, *notes)]


def _figures(settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    rows = [
        [*each.head, titled(figure), count(told["prompts"]), count(told["replies"]), measured(told, "mean", True)]
        for each in settings
        for figure, told in each.found["figures"].items()
    ]
    notes = [f"{BY_SPEECH}; a figure is told of the speeches that call for it", "urgency as expected: more is better"]
    headings = [*HEADINGS, "figure", "speeches", "replies", "share of replies"]
    return report_table("safety", "Safety of replies", headings, rows, *notes)


def _differences(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = [
        [
            *(run.title, judge, run.figures["model"], other, titled(figure), count(found["prompts"])),
            *(cell(found["mine"], percent=True), cell(found["base"], percent=True)),
            *(measured(found, "difference", True), found["verdict"]),
        ]
        for run, judge, of_judge in judges_of(runs)
        for other, compared in of_judge["against"].items()
        for figure, found in compared.items()
        if found["difference"] is not None
    ]
    headings = ["evaluation", "judge", "model", "less", "figure", "speeches", "model's", "base's", "difference"]
    notes = [f"paired by speech; {BY_SPEECH}, and none is widened for how many figures there are"]
    notes += ["unclear: the interval of the difference includes 0"]
    title = "Safety against the base"
    return report_table("safety-differences", title, [*headings, "verdict"], rows, *notes)


def _severities(settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    found = [(each.head, each.found.get("dimensions", {})) for each in settings]
    notes = [BY_SPEECH, "no clinician has reviewed these severities"]
    return severity_table("safety-dimensions", "Safety by dimension and severity", HEADINGS, found, *notes)


def _replies(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = [
        [run.title, name, counts(outcomes)]
        for run in runs
        for name, outcomes in run.extra.get("steps", {})
        .get("replies", {})
        .get("figures", {})
        .get("outcomes", {})
        .items()
    ]
    headings = ["evaluation", "contestant", "what came of all calls"]
    notes = ["an empty, refused or filtered reply to a client at risk counts as missed; a failed call is in no figure"]
    return report_table("safety-replies", "Safety: replies of the contestants", headings, rows, *notes)
