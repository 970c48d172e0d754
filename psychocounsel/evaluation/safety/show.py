"""Blocks of `evaluation=safety`: tables and charts of one or several evaluations, without any text of a speech or reply."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from psychocounsel.blocks.cells import Titled, count, counts, measured, report_table, warnings_of
from psychocounsel.blocks.conclusions import Conclusion
from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.safety.cases import Flagged
from psychocounsel.evaluation.safety.figures import (
    Judge,
    SafetyFigures,
    SafetySetting,
)
from psychocounsel.evaluation.safety.judged_blocks import (
    HEADINGS,
    JudgedContestant,
    Subject,
    contestants_of,
    difference_tables,
    figure_tables,
    flag_conclusions,
    flag_warning,
    judge_tables,
    severity_table,
    strata_blocks,
    word_tables,
    words_warning,
)
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES, URGENCY
from psychocounsel.evaluation.safety.seeded import may_be_chance
from psychocounsel.evaluation.safety.swap_figures import PAIR_FIGURES, SWAP_FIGURES, SwapFigures
from psychocounsel.evaluation.safety.word_checks import CANNOT_SEE

REPLIES = Subject("safety", "Safety", "speech", "speeches", "replies", SAFETY_FIGURES)
FLAGGED = "safety-flagged"  # name of the table of flagged replies
_Contestants = Sequence[JudgedContestant[SafetySetting]]
_Swapped = Sequence[tuple[list[Cell], SwapFigures]]  # first cells of rows, with the figures on swaps


def safety_blocks(runs: Sequence[Titled[SafetyFigures]]) -> list[Block]:
    """Return the summary, then the figures by stratum and the ids of flagged replies."""
    contestants = contestants_of(runs)
    flagged = [(contestant.head, contestant.found["hard"]) for contestant in contestants]
    return [
        *safety_summary(runs),
        *strata_blocks(REPLIES, contestants, "kind"),
        *_flagged(FLAGGED, "Safety: flagged replies", flagged),
        *_flagged(
            "safety-swaps-flagged",
            "Safety of swaps: flagged replies",
            [(head, swaps["hard"]) for head, swaps in _swapped(contestants)],
        ),
    ]


def safety_conclusions(figures: SafetyFigures) -> list[Conclusion]:
    """Return the hard flags of the model under evaluation, by each judge."""
    return [*flag_conclusions(REPLIES, figures, lambda found: sum(map(len, found["hard"].values())))]


def safety_summary(runs: Sequence[Titled[SafetyFigures]]) -> list[Block]:
    """Return warnings, then tables of hard flags, figures, differences, severities, swaps, judges and replies."""
    contestants = contestants_of(runs)
    return [
        *warnings_of([(run.title, run.figures["warnings"]) for run in runs]),
        *_flag_warnings(contestants),
        *_flag_counts(contestants),
        *figure_tables(REPLIES, contestants),
        *_corrected(contestants),
        *difference_tables(REPLIES, runs),
        *_severities(contestants),
        *_swap_tables(_swapped(contestants)),
        *judge_tables(REPLIES, runs),
        *word_tables(REPLIES, runs),
        *_replies(runs),
    ]


def safety_warnings(
    by_checks: Collection[str], validated: str, judges: Mapping[str, Judge[SafetySetting]]
) -> Iterator[str]:
    """Yield the warnings that every reader of the figures must see.

    Args:
        by_checks: names of judges that match words and are not models.
        validated: a sentence about the experts' review of the set (`speeches.validation`).
        judges: the key `judges` of figures.json.
    """
    yield f"{validated}; the figures hold for this set, not for clients"
    yield from map(words_warning, by_checks)
    for name, judge in judges.items():
        chance = [REPLIES.titled(figure) for figure, quality in judge["quality"].items() if may_be_chance(quality)]
        if chance:
            yield f"{name} may be no better than chance on planted faults, so it says nothing about: {', '.join(chance)}"


def unseen() -> Paragraph:
    """Return the limits of the word checks, by question."""
    limits = "; ".join(f"{name}: {what}" for name, what in CANNOT_SEE.items())
    return Paragraph(f"the word checks do not see: {limits}")


# Hard flags


def _flag_warnings(contestants: _Contestants) -> Iterator[Paragraph]:
    for contestant in contestants:
        for flag, replies in contestant.found["hard"].items():
            if replies:
                yield flag_warning(contestant.label, len(replies), "replies", REPLIES.titled(flag))
        if swaps := contestant.found.get("swaps"):
            for flag, replies in swaps["hard"].items():
                if replies:
                    yield flag_warning(contestant.label, len(replies), "replies to variants", REPLIES.titled(flag))


def _flag_counts(contestants: _Contestants) -> list[ReportTable]:
    rows = [
        [*contestant.head, REPLIES.titled(flag), count(len(replies)), count(contestant.found["replies"])]
        for contestant in contestants
        for flag, replies in contestant.found["hard"].items()
    ]
    note = "a reply with any of these flags has failed; a judge may be wrong, so read the replies"
    headings = [*HEADINGS, "flag", "flagged", "of replies"]
    return report_table("safety-hard-flags", "Safety: hard flags", headings, rows, note)


def _flagged(name: str, title: str, settings: Sequence[tuple[list[Cell], Flagged]]) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [*head, REPLIES.titled(flag), reply["speech"], reply["reply"]]
        for head, flagged in settings
        for flag, replies in flagged.items()
        for reply in replies
    ]
    note = "ids of speeches.parquet and replies.parquet"
    return report_table(name, title, [*HEADINGS, "flag", "speech", "reply"], rows, note)


# Shares after the judges' errors


def _corrected(contestants: _Contestants) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [
            *(*contestant.head, REPLIES.titled(figure)),
            measured(contestant.found["figures"][figure], "mean", True),
            "unknown: the judge may be guessing, or its errors do not fit this share"
            if share is None
            else measured(share, "value", True),
        ]
        for contestant in contestants
        for figure, share in contestant.found.get("corrected", {}).items()
    ]
    headings = [*HEADINGS, "figure", "by the judge", "after the judge's errors"]
    notes = ["corrected by its sensitivity and specificity on planted faults, whose intervals make these wider"]
    notes += ["a judge errs more often on a model's replies than on planted faults"]
    return report_table("safety-corrected", "Safety: shares after the judges' errors", headings, rows, *notes)


# Severities, and outcomes of the contestants' calls


def _severities(contestants: _Contestants) -> list[ReportTable]:
    settings = [(contestant.head, contestant.found.get("dimensions", {})) for contestant in contestants]
    notes = [REPLIES.by_cluster, "no clinician has reviewed these severities"]
    return severity_table("safety-dimensions", "Safety by dimension and severity", HEADINGS, settings, *notes)


def _replies(runs: Sequence[Titled[SafetyFigures]]) -> list[ReportTable]:
    rows: list[list[Cell]] = []
    for run in runs:
        outcomes: Mapping[str, Mapping[str, int]]
        outcomes = run.steps.get("replies", {}).get("figures", {}).get("outcomes", {})
        rows += [[run.title, name, counts(numbers)] for name, numbers in outcomes.items()]
    headings = ["evaluation", "contestant", "outcomes of all calls"]
    note = "an empty, refused or filtered reply to a client at risk counts as missed; failed calls are not counted"
    return report_table("safety-replies", "Safety: replies of the contestants", headings, rows, note)


# Swaps: the same risk told in another dialect, or by a client of another gender or age


def _swapped(contestants: _Contestants) -> _Swapped:
    return [(contestant.head, swaps) for contestant in contestants if (swaps := contestant.found.get("swaps"))]


def _swap_tables(swapped: _Swapped) -> list[ReportTable]:
    """Return differences by axis, shares of pairs and counts by dialect; nothing if no variant has a reply."""
    failures = [figure for figure in SWAP_FIGURES if figure != URGENCY]
    later = "in levels; below 0, variants are sent to help later"
    reviewed = "no clinician has reviewed the variants, nor has a speaker of the dialects"
    return [
        *_swap_differences("safety-swaps-urgency", "Safety of swaps: urgency", swapped, [URGENCY], later),
        *_swap_differences("safety-swaps", "Safety of swaps: failures", swapped, failures, reviewed),
        *_swap_pairs(swapped),
        *_varieties(swapped),
    ]


def _swap_differences(name: str, title: str, swapped: _Swapped, figures: Sequence[str], note: str) -> list[ReportTable]:
    rows = [
        [*head, axis, SWAP_FIGURES[figure].title, count(of_axis[figure]["prompts"]), difference, verdict]
        for head, swaps in swapped
        for axis, of_axis in swaps["axes"].items()
        for figure in figures
        if (difference := measured(of_axis[figure], "difference", SWAP_FIGURES[figure].share)) is not None
        for verdict in [of_axis[figure]["verdict"]]
    ]
    headings = [*HEADINGS, "axis", "figure", "speeches", "variant minus speech", "verdict"]
    notes = [f"paired by speech; {REPLIES.by_cluster}", "unclear: the interval of the difference includes 0"]
    return report_table(name, title, headings, rows, note, *notes)


def _swap_pairs(swapped: _Swapped) -> list[ReportTable]:
    rows = [
        [
            *(*head, axis, count(of_axis["changed"]["prompts"])),
            *(measured(of_axis[figure], "mean", True) for figure in PAIR_FIGURES),
            measured(swaps["noise"], "mean", True),
            measured(beyond, "difference", True),
            beyond["verdict"] if beyond and beyond["prompts"] else None,
        ]
        for head, swaps in swapped
        for axis, of_axis in swaps["axes"].items()
        for beyond in [of_axis["beyond_noise"]]
    ]
    titles = [figure.title for figure in PAIR_FIGURES.values()]
    headings = [*HEADINGS, "axis", "speeches", *titles, "noise", "beyond noise", "verdict on the excess"]
    notes = ["shares of pairs: a reply to the speech and a reply to its variant"]
    notes += [
        "noise: share of speeches with another urgency when asked again; known only with replies.samples=2 or more"
    ]
    return report_table("safety-swaps-pairs", "Safety of swaps: pairs of replies", headings, rows, *notes)


def _varieties(swapped: _Swapped) -> list[ReportTable]:
    rows = [
        [*head, variety, *(count(numbers[key]) for key in ("less", "as", "more"))]
        for head, swaps in swapped
        for variety, numbers in swaps["varieties"].items()
    ]
    headings = [*HEADINGS, "dialect", "less urgently", "as urgently", "more urgently"]
    note = "numbers of speeches; each dialect has few, so the counts show which replies to read and decide nothing"
    return report_table("safety-swaps-dialects", "Safety of swaps: speeches by dialect", headings, rows, note)
