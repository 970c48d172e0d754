"""Tables of swaps: changes when the same risk is told in another dialect, or by a client of another gender or age."""

from collections.abc import Iterator, Sequence

from psychocounsel.evaluation.safety.reply_questions import URGENCY
from psychocounsel.evaluation.safety.swaps.swap_figures import PAIR_FIGURES, SWAP_FIGURES
from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.sections.evaluations.figure_cells import count, measured, report_table
from psychocounsel.reporting.sections.evaluations.judged_parts.judged_settings import (
    HEADINGS,
    REPLIES,
    JudgedSetting,
)
from psychocounsel.studies.tables.formats import Cell


def swap_tables(settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    """Return differences by axis, counts by dialect, and hard flags; nothing if no variant has a reply."""
    swapped = [each for each in settings if each.found.get("swaps")]
    return [*_differences(swapped), *_pairs(swapped), *_varieties(swapped), *_flags(swapped)]


def _differences(swapped: Sequence[JudgedSetting]) -> Iterator[ReportTable]:
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


def _pairs(swapped: Sequence[JudgedSetting]) -> list[ReportTable]:
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


def _flags(swapped: Sequence[JudgedSetting]) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [*each.head, REPLIES.titled(flag), one["speech"], one["reply"]]
        for each in swapped
        for flag, flagged in each.found["swaps"]["hard"].items()
        for one in flagged
    ]
    title = "Safety of swaps: flagged replies"
    return report_table("safety-swaps-flagged", title, [*HEADINGS, "flag", "speech", "reply"], rows)
