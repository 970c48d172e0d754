"""Replaces identifiers in a speech with placeholders; equal identifiers get equal placeholders. This is not anonymisation."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psychocounsel.annotation.speeches.identifier_rules import IdentifierSpan, identifiers_in

Finder = Callable[[str], Sequence[IdentifierSpan]]
STATEMENT = (
    "This is not anonymisation: rules replace only what they recognise. Everything else stays, and a story alone may identify a "
    "person to people who know them."
)
_PLACEHOLDER = re.compile(r"\[([A-Z_]+)_(\d+)\]")


@dataclass(frozen=True)
class Replaced:
    """A text with placeholders, and the number of placeholders of each kind."""

    text: str
    counts: Counter[str]


def replace_identifiers(text: str, finders: Sequence[Finder] = (identifiers_in,)) -> Replaced:
    """Replace each identifier with a placeholder such as [NAME_1]; where finders overlap, the earlier finder wins.

    The same e-mail address or number gets the same placeholder each time; so do a full name and each of its parts.
    """
    taken = [match.span() for match in _PLACEHOLDER.finditer(text)]  # placeholders from an earlier cleaning
    spans: list[IdentifierSpan] = []
    for finder in finders:
        for span in finder(text):
            others = [*taken, *((other.start, other.end) for other in spans)]
            if all(span.end <= start or end <= span.start for start, end in others):
                spans.append(span)
    spans.sort(key=lambda span: span.start)
    numbers = _numbers(text, spans)
    pieces, last = [], 0
    for span, number in zip(spans, numbers, strict=True):
        pieces += [text[last : span.start], f"[{span.kind}_{number}]"]
        last = span.end
    return Replaced("".join([*pieces, text[last:]]), Counter(span.kind for span in spans))


def _numbers(text: str, spans: Sequence[IdentifierSpan]) -> list[int]:
    """Return the number of each span's placeholder, counted per kind from 1, or after the numbers already in the text."""
    used = Counter[str]()
    for match in _PLACEHOLDER.finditer(text):
        used[match[1]] = max(used[match[1]], int(match[2]))
    known: dict[tuple[str, str], int] = {}
    longest_first = sorted(range(len(spans)), key=lambda place: (spans[place].start - spans[place].end, place))
    names = {place: _keys(text, spans[place]) for place in longest_first}
    same: dict[tuple[str, str], tuple[str, str]] = {}
    for place in longest_first:  # Tom Baker before Tom, so that both get the same placeholder
        whole = next((same[key] for key in names[place] if key in same), names[place][0])
        for key in names[place]:
            same.setdefault(key, whole)
    numbers = []
    for place, span in enumerate(spans):
        whole = same[names[place][0]]
        if whole not in known:
            used[span.kind] += 1
            known[whole] = used[span.kind]
        numbers.append(known[whole])
    return numbers


def _keys(text: str, span: IdentifierSpan) -> list[tuple[str, str]]:
    """Return the keys that identify equal identifiers: the letters and digits, and for a name also each of its parts."""
    value = text[span.start : span.end].casefold()
    keys = [(span.kind, re.sub(r"[\W_]+", "", value))]
    if span.kind == "NAME":
        keys += [(span.kind, re.sub(r"\W+", "", part)) for part in value.split()]
    return keys
