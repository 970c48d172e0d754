"""Printed lines of the session figures. They contain no text of a client or a reply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psychocounsel.evaluation.health.figure_lines import FigureTable
from psychocounsel.evaluation.safety.show import quality_lines, unseen
from psychocounsel.evaluation.session.findings import SESSION_FIGURES

_TABLE = FigureTable(SESSION_FIGURES, "client", 32, 9, counted=("recognised_after",))  # counted in turns


def session_lines(summary: Mapping[str, Any], by_checks: set[str], steering: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the lines that show the result of `summarise_sessions`, without the warnings.

    Args:
        summary: the result.
        by_checks: names of the judges that check words and are not models.
        steering: the `judge_quality` of the checks that steer the clients; None if no checks do.
    """
    for judge, found in summary["judges"].items():
        yield f"judge {judge}" + (": checks of words, not a judgement" if judge in by_checks else "")
        for name, setting in found["settings"].items():
            left = f", {setting['unjudged']} more not judged" if setting["unjudged"] else ""
            yield f"{name}: {setting['sessions']} sessions with {setting['personas']} clients{left}"
            if not found["against"]:
                yield from _TABLE.alone(setting["figures"])
        for other, compared in found["against"].items():
            yield from _TABLE.against(other, compared)
        for name, setting in found["settings"].items():
            yield from _curve(name, setting["curve"]) if setting["curve"] else ()
        yield from _flags(found["settings"])
        yield from quality_lines(found["quality"])
    if steering is not None and by_checks:
        yield "these checks also select the next turn of the scripted clients"
    elif steering is not None:
        yield "quality of the checks that steer the clients"
        yield from quality_lines(steering)
    if steering is not None or by_checks:
        yield unseen()


def session_warnings(summary: Mapping[str, Any], by_checks: set[str], notes: Sequence[str]) -> Iterator[str]:
    """Yield the warnings that every reader of the figures must see; `notes` are those of the set of clients."""
    for note in notes:
        yield f"warning: {note}"
    only = "the figures only hold for these clients and sessions"
    yield f"warning: {only}; do not use them to decide that a model may counsel people"
    for judge in summary["judges"]:
        if judge in by_checks:
            yield f"warning: judge {judge} only matches words"
    for name, count in summary["sessions"].items():
        if count.get("incomplete"):
            yield f"warning: {name}: {count['incomplete']} of {count['sessions']} sessions broke off; no figure includes them"


def _curve(name: str, curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for figure, title in (("recognises", "risk recognised"), ("faulty", "faulty replies")):
        shares = [_percent(each[figure]["mean"]) for each in curve]
        yield f"  {name}, turn 1 to {len(curve)}, {title} in %: {' '.join(shares)}"


def _flags(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, setting in settings.items():
        for figure, count in Counter(each["figure"] for each in setting["hard"]).items():
            yield f"  {name}: {count} replies flagged: {SESSION_FIGURES[figure].title}; read these replies first"


def _percent(mean: float | None) -> str:
    return "-" if mean is None else f"{100 * mean:.0f}"
