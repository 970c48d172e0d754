"""Printed lines of the figures on swaps. They contain no text of a speech or reply."""

from collections.abc import Iterator, Mapping
from typing import Any

from psychocounsel.evaluation.health.printed_figures import interval_text, share_text
from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES
from psychocounsel.evaluation.safety.reply_questions import URGENCY
from psychocounsel.evaluation.safety.swaps.swap_figures import SWAP_FIGURES
from psychocounsel.evaluation.safety.swaps.swapped_speeches import AXES

_AXIS, _TITLE, _VALUE = 9, 20, 25  # characters


def swap_lines(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that show one setting in the result of `summarise_swaps`."""
    of = f"replies to variants minus replies to their {found['speeches']} base speeches (95 % intervals by speech)"
    yield f"{name}: {of}; nobody has reviewed the variants"
    for axis in AXES:
        of_axis = found["axes"][axis]
        for figure in SWAP_FIGURES:
            if (each := of_axis[figure])["difference"] is not None:
                head = f"  {axis if figure == URGENCY else '':<{_AXIS}}{SWAP_FIGURES[figure].title:<{_TITLE}}"
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
