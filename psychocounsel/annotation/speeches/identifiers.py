"""Replaces identifiers in a speech by placeholders, equal identifiers by equal ones. This is no anonymisation."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psychocounsel.annotation.speeches.identifier_rules import IdentifierSpan, identifiers_in

Finder = Callable[[str], Sequence[IdentifierSpan]]
STATEMENT = (
    "This is no anonymisation: rules replace what they recognise, miss the rest, and leave what was told, by which a person may "
    "be known to those who know them."
)
_PLACEHOLDER = re.compile(r"\[([A-Z_]+)_(\d+)\]")


@dataclass(frozen=True)
class Replaced:
    """A text with placeholders, and how many of each kind were put in."""

    text: str
    counts: Counter[str]


def replace_identifiers(text: str, finders: Sequence[Finder] = (identifiers_in,)) -> Replaced:
    """Put a placeholder as [NAME_1] in the place of each identifier; where finders overlap, the earlier one's counts.

    The same e-mail address or number gets the same placeholder; so do a name, its first part and its last.
    """
    taken = [match.span() for match in _PLACEHOLDER.finditer(text)]  # of an earlier clean-up
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
    """The number of each span's placeholder, from 1 for each kind, or from behind those that the text holds already."""
    used = Counter[str]()
    for match in _PLACEHOLDER.finditer(text):
        used[match[1]] = max(used[match[1]], int(match[2]))
    known: dict[tuple[str, str], int] = {}
    longest_first = sorted(range(len(spans)), key=lambda place: (spans[place].start - spans[place].end, place))
    names = {place: _keys(text, spans[place]) for place in longest_first}
    same: dict[tuple[str, str], tuple[str, str]] = {}
    for place in longest_first:  # Tom Baker before Tom, so that both are one
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
    """What tells an identifier from others of its kind: its letters and digits; of a name each part as well."""
    value = text[span.start : span.end].casefold()
    keys = [(span.kind, re.sub(r"[\W_]+", "", value))]
    if span.kind == "NAME":
        keys += [(span.kind, re.sub(r"\W+", "", part)) for part in value.split()]
    return keys
