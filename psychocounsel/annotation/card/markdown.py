"""Parts of a markdown page. What comes from data or from a user stands there as plain text, whatever it spells."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LONGEST = 300  # characters of a foreign text
_MARKUP = re.compile(r"([\\`*_\[\]<>|~#&$@:])")
_BAR = 30  # characters of the longest bar


def plain(value: Any) -> str:
    """One line of at most 300 characters, without control, format and other invisible characters."""
    visible = "".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in str(value))
    text = " ".join(visible.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def escaped(value: Any) -> str:
    """`plain`, of which nothing acts as markup inside a line: no link, no tag, no cell's border, no code."""
    return re.sub(r"(?i)\bwww\.", r"www\\.", _MARKUP.sub(r"\\\1", plain(value)))


def cell(value: Any) -> str:
    """A number as people write it, a missing value as `unknown`, and any text escaped."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if isinstance(value, float) else escaped(value)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a table, with an empty one behind. `head` is ours; every cell of `rows` is escaped."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(map(cell, row))} |" for row in rows), ""]


def histogram(what: str, counts: Mapping[Any, int]) -> list[str]:
    """A table of values with their counts, shares and bars, in the order of `counts`."""
    total, largest = sum(counts.values()), max(counts.values(), default=0)
    if not total:
        return ["Nothing to count.", ""]
    rows = [
        (value, count, _percent(count / total), "█" * round(_BAR * count / largest)) for value, count in counts.items()
    ]
    return table((what, "count", "share", ""), rows)


def fenced(lines: Iterable[str], language: str = "text") -> list[str]:
    """Lines as they are, in a fence that none of them can close."""
    body = [line for text in lines for line in text.splitlines() or [""]]
    longest = max((len(run) for line in body for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *body, fence, ""]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
