"""Parts of a Markdown page. Text from data or users is escaped, so it never acts as markup."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LONGEST = 300  # characters of an escaped text
_MARKUP = re.compile(r"([\\`*_\[\]<>|~#&$@:])")
_LOADING = re.compile(r"([\\\[<`~$])")  # the last three begin code and formulas, which viewers may draw
_BAR = 30  # characters of the longest bar


def plain(value: Any) -> str:
    """Return a text as one line of at most 300 characters, without control, format and other invisible characters."""
    text = " ".join(_visible(str(value)).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _visible(text: str) -> str:
    return "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)


def escaped(value: Any) -> str:
    """Return `plain(value)` with markup characters escaped: no link, tag, table border or code."""
    return re.sub(r"(?i)\bwww\.", r"www\\.", _MARKUP.sub(r"\\\1", plain(value)))


def cell(value: Any) -> str:
    """Return a table cell: numbers formatted, a missing value as `unknown`, and any text escaped."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if isinstance(value, float) else escaped(value)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a table, followed by an empty line. Cells of `rows` are escaped; `head` must be our own text."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(map(cell, row))} |" for row in rows), ""]


def histogram(what: str, counts: Mapping[Any, int]) -> list[str]:
    """Return a table of values with counts, shares and bars, in the order of `counts`."""
    total, largest = sum(counts.values()), max(counts.values(), default=0)
    if not total:
        return ["Nothing to count.", ""]
    rows = [
        (value, count, _percent(count / total), "█" * round(_BAR * count / largest)) for value, count in counts.items()
    ]
    return table((what, "count", "share", ""), rows)


def quotation(text: str, head: str = "") -> str:
    """Return a text as a quotation in which nothing is drawn or hidden: no image, diagram, formula, tag or link.

    `head`: our own Markdown at its beginning.
    """
    lines = [_LOADING.sub(r"\\\1", _visible(line)) for line in text.splitlines()] or [""]
    return "\n".join(f"> {line}" for line in [head + lines[0], *lines[1:]])


def fenced(lines: Iterable[str], language: str = "text") -> list[str]:
    """Return lines unchanged inside a code fence that none of them can close."""
    body = [line for text in lines for line in text.splitlines() or [""]]
    longest = max((len(run) for line in body for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *body, fence, ""]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
