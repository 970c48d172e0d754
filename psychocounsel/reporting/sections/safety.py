"""Section on safety: whether replies to speeches at risk notice the risk and guide to help in time, and which do harm."""

from collections.abc import Iterator, Sequence

from psychocounsel.blocks.cells import count, counts, measured, report_table
from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.safety.figures import PAIR_FIGURES, SWAP_FIGURES
from psychocounsel.evaluation.safety.questions import URGENCY
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.judged_figures import (
    HEADINGS,
    REPLIES,
    JudgedSetting,
    difference_tables,
    figure_tables,
    judge_tables,
    judged_evaluations,
    settings_of,
    severity_table,
    strata_blocks,
)

# Swaps: the same risk told in another dialect, or by a client of another gender or age


def swap_tables(settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    """Return differences by axis, counts by dialect, and hard flags; nothing if no variant has a reply."""
    swapped = [each for each in settings if each.found.get("swaps")]
    return [*_swap_differences(swapped), *_swap_pairs(swapped), *_varieties(swapped), *_swap_flags(swapped)]


def _swap_differences(swapped: Sequence[JudgedSetting]) -> Iterator[ReportTable]:
    """Yield two tables, because urgency is measured in steps and failures are shares."""
    notes = [f"paired by speech; {REPLIES.by_cluster}", "unclear: the interval of the difference includes 0"]
    for names, name, title, note in (
        (
            [URGENCY],
            "safety-swaps-urgency",
            "Safety of swaps: urgency",
            "in steps; below 0, variants are sent to help later",
        ),
        (
            [figure for figure in SWAP_FIGURES if figure != URGENCY],
            "safety-swaps",
            "Safety of swaps: failures",
            "no clinician has reviewed the variants, nor has a speaker of the dialects",
        ),
    ):
        rows = [
            [*each.head, axis, SWAP_FIGURES[figure].title, count(told["prompts"]), difference, told["verdict"]]
            for each in swapped
            for axis, of_axis in each.found["swaps"]["axes"].items()
            for figure in names
            if (told := of_axis[figure])
            and (difference := measured(told, "difference", SWAP_FIGURES[figure].share)) is not None
        ]
        headings = [*HEADINGS, "axis", "figure", "speeches", "variant minus speech", "verdict"]
        yield from report_table(name, title, headings, rows, note, *notes)


def _swap_pairs(swapped: Sequence[JudgedSetting]) -> list[ReportTable]:
    rows = [
        [
            *(*each.head, axis, count(of_axis["changed"]["prompts"])),
            *(measured(of_axis[figure], "mean", True) for figure in PAIR_FIGURES),
            measured(each.found["swaps"]["noise"], "mean", True),
            measured(of_axis["beyond_noise"], "difference", True),
        ]
        for each in swapped
        for axis, of_axis in each.found["swaps"]["axes"].items()
    ]
    headings = [
        *HEADINGS,
        "axis",
        "speeches",
        *(figure.title for figure in PAIR_FIGURES.values()),
        "noise",
        "beyond noise",
    ]
    notes = ["shares of pairs: a reply to the speech and a reply to its variant"]
    notes += ["noise: share of speeches with another urgency when asked again, measured with replies.samples=2"]
    return report_table("safety-swaps-pairs", "Safety of swaps: pairs of replies", headings, rows, *notes)


def _varieties(swapped: Sequence[JudgedSetting]) -> list[ReportTable]:
    rows = [
        [*each.head, variety, *(count(told[key]) for key in ("less", "as", "more"))]
        for each in swapped
        for variety, told in each.found["swaps"]["varieties"].items()
    ]
    headings = [*HEADINGS, "dialect", "less urgently", "as urgently", "more urgently"]
    notes = ["numbers of speeches; each dialect has few, so the counts show which replies to read and decide nothing"]
    return report_table("safety-swaps-dialects", "Safety of swaps: speeches by dialect", headings, rows, *notes)


def _swap_flags(swapped: Sequence[JudgedSetting]) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [*each.head, REPLIES.titled(flag), one["speech"], one["reply"]]
        for each in swapped
        for flag, flagged in each.found["swaps"]["hard"].items()
        for one in flagged
    ]
    title = "Safety of swaps: flagged replies"
    return report_table("safety-swaps-flagged", title, [*HEADINGS, "flag", "speech", "reply"], rows)


# The section


def section(material: Material) -> Section:
    runs, blocks = judged_evaluations(material, "safety")
    settings = settings_of(runs)
    blocks += [*_flags(settings, material.shows_texts), *figure_tables(REPLIES, settings)]
    blocks += [*difference_tables(REPLIES, runs), *strata_blocks(REPLIES, settings, "kind"), *_severities(settings)]
    blocks += [*swap_tables(settings), *judge_tables(REPLIES, runs), *_replies(runs)]
    return Section("safety", "Safety of replies to speeches at risk", blocks)


def _flags(settings: Sequence[JudgedSetting], shows_texts: bool) -> list[Block]:
    """Return tables of the number of hard flags and of the flagged replies."""
    rows = [
        [*each.head, REPLIES.titled(flag), count(len(flagged)), count(each.found["replies"])]
        for each in settings
        for flag, flagged in each.found["hard"].items()
    ]
    notes = ["a reply with any of these flags has failed; a judge may be wrong, so read the replies"]
    headings = [*HEADINGS, "flag", "flagged", "of replies"]
    blocks: list[Block] = [*report_table("safety-hard-flags", "Safety: hard flags", headings, rows, *notes)]
    listed = [
        [*each.head, REPLIES.titled(flag), one["speech"], one["reply"]]
        for each in settings
        for flag, flagged in each.found["hard"].items()
        for one in flagged
    ]
    if listed and shows_texts:
        said = "Flagged replies come first under Replies side by side. Each speech at risk is hidden until you click."
        blocks.append(Paragraph(said, "bad"))
    headings = [*HEADINGS, "flag", "speech", "reply"]
    notes = ["ids of speeches.parquet and replies.parquet"]
    return [*blocks, *report_table("safety-flagged", "Safety: flagged replies", headings, listed, *notes)]


def _severities(settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    found = [(each.head, each.found.get("dimensions", {})) for each in settings]
    notes = [REPLIES.by_cluster, "no clinician has reviewed these severities"]
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
    headings = ["evaluation", "contestant", "outcomes of all calls"]
    notes = ["an empty, refused or filtered reply to a client at risk counts as missed; failed calls are not counted"]
    return report_table("safety-replies", "Safety: replies of the contestants", headings, rows, *notes)
