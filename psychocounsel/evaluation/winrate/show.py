"""Printed lines of the win-rate figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_TITLE = 30  # characters
_CONTROLLED = {
    "length_controlled": "at equal length",
    "length_and_ending_controlled": "and equal ending",
    "length_and_formatting_controlled": "and equal formatting",
    "all_controlled": "and equal in both",
}


def lines_of(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that show figures.json."""
    if figures["left_out"]:
        yield f"left out: {figures['left_out']:,} speeches that are nearly the same as training data"
    for variant in figures["variants"]:
        limit = variant["length_limit"]
        if limit is not None:
            yield f"\nReplies of at most {limit} words"
        if not variant["opponents"]:
            yield "no verdicts: win rates are unknown"
        for name, found in variant["opponents"].items():
            yield from _opponent(figures["model"], name, found)
        yield from _replied(variant.get("contestants", {}))
        yield from _ranking(variant["ranking"])
        yield from _judges(variant)
    if not any(variant["experts"] for variant in figures["variants"]):
        yield "The agreement of these judges with experts is unknown, because no expert has compared these replies."
    yield from figures["warnings"]


def _opponent(model: str, name: str, found: dict[str, Any]) -> Iterator[str]:
    overall, seeds = found["overall"], found["seeds"]
    yield f"\n{model} against {name}: {overall['prompts']:,} speeches, {overall['rows']:,} judged pairs"
    if not overall["prompts"]:
        yield "  no pair has a verdict in both orders"
        return
    agree = _beside(found["experts"]["together"])
    yield _measured("win rate", overall["win_rate"]) + _p(found) + agree
    for key, title in _CONTROLLED.items():
        yield _measured(f"  {title}", found[key]["win_rate"]) + agree
    shares = overall["shares"]
    won, lost = shares["won"] + shares["partly_won"], shares["lost"] + shares["partly_lost"]
    yield f"  {'won, tied, lost':<{_TITLE}}{100 * won:6.1f} % {100 * shares['tied']:6.1f} % {100 * lost:6.1f} %"
    if seeds["n"] > 1:
        low, high = seeds["interval"]
        yield (
            f"  {'over training seeds':<{_TITLE}}{100 * seeds['mean']:6.1f} % (SD {100 * seeds['sd']:.1f}, n = {seeds['n']}; "
            f"{100 * low:.1f} to {100 * high:.1f})" + agree
        )
    else:
        yield f"  {'training seeds':<{_TITLE}} n = 1: the variation between training seeds is unknown"
    yield from _slices(found, agree)
    if overall["unjudged"]:
        yield f"  {overall['unjudged']:,} pairs lack a verdict in one order or both; no figure includes them"
    if overall["small"]:
        yield "  fewer than 30 speeches: the intervals are too narrow"


def _slices(found: dict[str, Any], agree: str) -> Iterator[str]:
    """Yield the win rates by judge, principle, risk and topic, each with the agreement with experts if it is known.

    `agree`: the text about the agreement of all judges on all pairs.
    """
    for group in ("by_judge", "principles", "risk", "topics"):
        if len(found[group]) == 1 and group != "principles":
            continue
        kind = {"by_judge": "judge ", "topics": "topic "}.get(group, "")
        for label, each in found[group].items():
            beside = agree
            if group == "by_judge":
                beside = _beside(found["experts"]["by_judge"].get(label)) or (
                    agree and "; no expert compared its pairs"
                )
            elif group == "principles":
                beside = agree and "; experts do not rate principles"
            elif group in ("risk", "topics"):
                beside = agree and "; agreement with experts: see win rate"
            if each["prompts"]:
                yield _slice(kind + label, each) + beside


def _beside(agreement: dict[str, Any] | None) -> str:
    """Return the text about the agreement between judges and experts, for the end of a line; "" if it is unknown."""
    if agreement is None:
        return ""
    return f"; judges and experts agree: {100 * agreement['raw']['value']:.1f} % of {agreement['rows']}"


def _slice(label: str, found: dict[str, Any]) -> str:
    few = ", too few for a conclusion" if found["small"] else ""
    return _measured(f"  {label}", found["win_rate"]) + f", n = {found['prompts']}{few}"


def _measured(title: str, measure: dict[str, float | None]) -> str:
    if measure["value"] is None:
        return f"  {title:<{_TITLE}}cannot be computed"
    interval = "" if measure["low"] is None else f" ({100 * measure['low']:.1f} to {100 * (measure['high'] or 0):.1f})"
    return f"  {title:<{_TITLE}}{100 * measure['value']:6.1f} %{interval}"


def _p(found: dict[str, Any]) -> str:
    if found["p"] is None:
        return ""
    adjusted = f", {found['p_adjusted']:.3g} by Holm" if found["p_adjusted"] != found["p"] else ""
    return f", p = {found['p']:.3g}{adjusted}"


def _replied(contestants: dict[str, Any]) -> Iterator[str]:
    """Yield lines about replies without a text, and about replies over the length limit."""
    for name, counts in contestants.items():
        if missing := sum(counts["without_text"].values()):
            said = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts["without_text"].items()))
            yield f"{name}: {missing:,} of {counts['wanted']:,} replies have no text ({said}); these replies are in no comparison"
        if counts["over_limit"]:
            yield f"{name}: {counts['over_limit']:,} of {counts['wanted']:,} replies are longer than the limit"


def _ranking(ranking: dict[str, Any] | None) -> Iterator[str]:
    if ranking is None:
        return
    yield "\nBradley-Terry strengths (Elo scale, mean 1000)"
    for name, each in ranking["strengths"].items():
        elo = each["elo"]
        interval = "" if elo["low"] is None else f" ({elo['low']:.0f} to {elo['high']:.0f})"
        yield f"  {name:<{_TITLE}}{elo['value']:6.0f}{interval}"
    if len(ranking["groups"]) > 1:
        yield "  no chain of comparisons links these groups: " + " | ".join(
            ", ".join(group) for group in ranking["groups"]
        )
    elif not ranking["bounded"]:
        yield "  some settings never lost (or never won) a point against others: the order is valid, the distances are not"


def _judges(variant: dict[str, Any]) -> Iterator[str]:
    for name, bias in variant["judges"].items():
        share = bias["inconsistent"]["value"]
        if share:
            yield _measured(f"judge {name} contradicts itself", bias["inconsistent"]) + ", counted as ties"
            yield _measured("  prefers the first place", bias["first_place"])
    for each in variant["agreement"]:
        yield from _agreement(" and ".join(each["judges"]), each["agreement"])
    for each in variant["experts"]:
        yield from _agreement(f"{each['judge']} and expert {each['expert']}", each["agreement"])


def _agreement(names: str, found: dict[str, Any]) -> Iterator[str]:
    if found["raw"]["value"] is not None:
        kappa = "" if found["kappa"]["value"] is None else f", kappa {found['kappa']['value']:.2f}"
        yield _measured(f"{names} agree", found["raw"]) + f"{kappa}, AC1 {found['ac1']['value'] or 0:.2f}"
