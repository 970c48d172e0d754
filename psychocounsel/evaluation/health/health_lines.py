"""Printed table of `evaluation=health`: lines of figures, without any text of a reply."""

from collections.abc import Iterator, Mapping
from typing import Any

from psychocounsel.evaluation.health.health_means import EXCEEDED, KEPT
from psychocounsel.evaluation.health.printed_figures import interval_text
from psychocounsel.evaluation.health.reply_health import FIGURES
from psychocounsel.evaluation.statistics.win_rates import SMALL

_TITLE, _COLUMN, _INTERVAL = 38, 10, 32  # column widths [characters]
_DIGITS = {"mtld": 1, "words": 1, "characters": 0}
_WHOLE = ("repetition", "distinct_2")  # shown as percentages, although they are not shares of replies


def lines_of(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table for the result of `summarise`."""
    for variant in summary["variants"]:
        limit = variant["length_limit"]
        yield "" if limit is None else f"\nReplies of at most {limit} words"
        for name, found in variant["settings"].items():
            others = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items())
            yield f"{name}: {found['replies']} replies to {found['prompts']} speeches ({others})"
            if name not in _compared(variant):
                yield from _alone(found["figures"])
            yield from _undecided(found["limits"])
            if found["prompts"] < SMALL:
                yield f"  fewer than {SMALL} speeches: the intervals are too narrow to trust"
        for other, found in variant["against"].items():
            yield from _against(other, found)
    yield from health_warnings(summary)


def health_warnings(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each limit that the replies of a setting exceed."""
    for variant in summary["variants"]:
        limit = variant["length_limit"]
        where = "" if limit is None else f" (replies of at most {limit} words)"
        for name, found in variant["settings"].items():
            for each in found["limits"]:
                if each["verdict"] == EXCEEDED:
                    measured = f"{_shown(each['name'], each['mean'])}{_interval(each['name'], each)}"
                    title = FIGURES[each["name"]].title
                    yield f"warning: {name}{where}: {title}: {measured}, above the limit of {100 * each['limit']:g} %"


def _compared(variant: Mapping[str, Any]) -> set[str]:
    """Return the settings whose figures a comparison table already shows."""
    return set(variant["settings"]) if variant["against"] else set()


def _alone(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, each in figures.items():
        if each["mean"] is not None:
            yield f"  {FIGURES[name].title:<{_TITLE}}{_shown(name, each['mean']):>{_COLUMN}}{_interval(name, each)}"


def _against(other: str, figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {'':<{_TITLE}}{'model':>{_COLUMN}}{'base':>{_COLUMN}}  difference from {other} (95 %, by speech)"
    for name, each in figures.items():
        if each["difference"] is None:
            yield f"  {FIGURES[name].title:<{_TITLE}}{'not known':>{_COLUMN}}"
            continue
        sides = f"{_shown(name, each['mine']):>{_COLUMN}}{_shown(name, each['base']):>{_COLUMN}}"
        change = f"  {_shown(name, each['difference'], '+')}{_interval(name, each, '+')}"
        yield f"  {FIGURES[name].title:<{_TITLE}}{sides}{change:<{_INTERVAL}}{each['verdict']}, n = {each['prompts']}"


def _undecided(limits: list[dict[str, Any]]) -> Iterator[str]:
    open_ = [each for each in limits if each["verdict"] not in (EXCEEDED, KEPT) and each["mean"] is not None]
    if open_:
        names = ", ".join(FIGURES[each["name"]].title for each in open_)
        yield f"  limits undecided, because there are too few speeches: {names}"


def _unit(name: str) -> tuple[float, int, str]:
    """Return a figure's factor, decimals and unit: per cent for shares, otherwise none."""
    return (100, 1, " %") if FIGURES[name].share or name in _WHOLE else (1, _DIGITS[name], "")


def _shown(name: str, value: float, sign: str = "") -> str:
    scale, digits, unit = _unit(name)
    return f"{scale * value:{sign}.{digits}f}{unit}"


def _interval(name: str, found: Mapping[str, Any], sign: str = "") -> str:
    scale, digits, _ = _unit(name)
    return interval_text(found, scale, digits, sign)
