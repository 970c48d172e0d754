"""Printed lines of the safety figures. They contain no text of a speech or reply."""

from collections.abc import Iterator, Mapping
from typing import Any

from psychocounsel.evaluation.flows.questions import severity_lines
from psychocounsel.evaluation.health.figure_lines import FigureTable, interval_text, share_text
from psychocounsel.evaluation.safety.figures import SWAP_FIGURES
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES, URGENCY
from psychocounsel.evaluation.safety.speeches import AXES
from psychocounsel.evaluation.safety.word_checks import CANNOT_SEE

# Figures on swaps.

_AXIS, _SWAP_TITLE, _VALUE = 9, 20, 25  # characters


def swap_lines(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that show one setting in the result of `summarise_swaps`."""
    of = f"replies to variants minus replies to their {found['speeches']} base speeches (95 % intervals by speech)"
    yield f"{name}: {of}; nobody has reviewed the variants"
    for axis in AXES:
        of_axis = found["axes"][axis]
        for figure in SWAP_FIGURES:
            if (each := of_axis[figure])["difference"] is not None:
                head = f"  {axis if figure == URGENCY else '':<{_AXIS}}{SWAP_FIGURES[figure].title:<{_SWAP_TITLE}}"
                yield f"{head}{_difference(figure, each):<{_VALUE}}{each['verdict']}, n = {each['prompts']}"
        if of_axis["changed"]["mean"] is not None:
            less, more = (share_text(of_axis[side]) for side in ("less_urgent", "more_urgent"))
            yield f"  {'':<{_AXIS}}less urgent in {less} of pairs, more urgent in {more}"
    yield _noise(found)
    if found["varieties"]:
        counts = "; ".join(
            f"{name} {each['less']}/{each['as']}/{each['more']}" for name, each in found["varieties"].items()
        )
        yield f"  speeches answered less/as/more urgently in each dialect: {counts}"
    for figure, rows in found["hard"].items():
        if rows:
            yield f"  {len(rows)} replies to variants flagged: {SAFETY_FIGURES[figure].title}; read these replies, too"


def _difference(figure: str, each: Mapping[str, Any]) -> str:
    scale, digits, unit = (1, 2, "") if figure == URGENCY else (100, 1, " %")
    return f"{scale * each['difference']:+.{digits}f}{unit}{interval_text(each, scale, digits, '+')}"


def _noise(found: Mapping[str, Any]) -> str:
    if found["noise"] is None:
        return (
            "  the change of urgency between two replies to the same speech is unknown: replies.samples=2 measures it"
        )
    beyond = [(axis, found["axes"][axis]["beyond_noise"]) for axis in AXES]
    told = ", ".join(
        f"{axis} {100 * each['difference']:+.1f} % ({each['verdict']})" for axis, each in beyond if each["prompts"]
    )
    noise = share_text(found["noise"])
    excess = f"; excess of variants over this noise: {told}" if told else ""
    return f"  two replies to the same speech: urgency differs in {noise} of pairs{excess}"


# Figures on replies to the crisis set.

_TITLE = 30  # characters
_TABLE = FigureTable(SAFETY_FIGURES, "speech", _TITLE, 8)


def safety_lines(summary: Mapping[str, Any], by_checks: set[str], validated: str) -> Iterator[str]:
    """Yield the lines that show the result of `summarise_safety`.

    Args:
        summary: the result.
        by_checks: names of the judges that check words and are not models.
        validated: a sentence about the experts' review of the set (`set_review.validation`).
    """
    for judge, found in summary["judges"].items():
        yield f"judge {judge}" + (": checks of words, not a judgement" if judge in by_checks else "")
        for name, setting in found["settings"].items():
            yield f"{name}: {setting['replies']} replies to {setting['speeches']} speeches"
            if not found["against"]:
                yield from _TABLE.alone(setting["figures"])
        for other, compared in found["against"].items():
            yield from _TABLE.against(other, compared)
        for name, setting in found["settings"].items():
            yield from severity_lines(setting["dimensions"], f"{name}: replies")
        yield from _flags(found["settings"])
        for name, setting in found["settings"].items():
            if "swaps" in setting:
                yield from swap_lines(name, setting["swaps"])
        yield from quality_lines(found["quality"])
        if judge in by_checks:
            yield unseen()
    yield from safety_warnings(summary, by_checks, validated)


def safety_warnings(summary: Mapping[str, Any], by_checks: set[str], validated: str) -> Iterator[str]:
    """Yield the warnings that every reader of the figures must see."""
    yield f"warning: {validated}; the figures hold for this set, not for clients"
    for judge in summary["judges"]:
        if judge in by_checks:
            yield f"warning: judge {judge} only matches words; do not base the decision to use a model on its figures"


def _flags(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, setting in settings.items():
        for figure, rows in setting["hard"].items():
            if rows:
                yield f"  {name}: {len(rows)} replies flagged: {SAFETY_FIGURES[figure].title}; read these replies first"


def unseen() -> str:
    """Return a line that lists the limits of the word checks, by question."""
    return "the word checks do not see: " + "; ".join(f"{name}: {what}" for name, what in CANNOT_SEE.items())


def quality_lines(quality: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of a judge's sensitivity and specificity on the seeded replies (the result of `judge_quality`)."""
    yield f"  {'planted faults':<{_TITLE}}{'sensitivity':<28}specificity"
    for name, each in quality.items():
        cells = [of_planted(each[kind]) for kind in ("sensitivity", "specificity")]
        yield f"  {SAFETY_FIGURES[name].title:<{_TITLE}}{cells[0]:<28}{cells[1]}"


def of_planted(share: Mapping[str, Any]) -> str:
    """Return a share as `5 of 6 (36 to 100 %)`."""
    if not share["of"]:
        return "none planted"
    return f"{share['right']} of {share['of']} ({100 * share['low']:.0f} to {100 * share['high']:.0f} %)"
