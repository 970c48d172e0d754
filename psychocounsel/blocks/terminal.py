"""Blocks as lines of text for a terminal. Charts, and speeches with their replies, are left out."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable
from psychocounsel.blocks.tables import cell_text, shown_headings, shown_notes

_ASCII = str.maketrans(
    {"─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┬": "+", "┴": "+"}
)
_ASCII |= str.maketrans({"┼": "+", "±": "+-", "…": "..."})


def terminal_lines(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield the blocks as lines. Conclusions (good or bad) and warnings come last, where a reader sees them.

    A note of several tables is shown once.
    """
    last, shown = list[str](), set[str]()
    for block in blocks:
        if isinstance(block, Paragraph) and block.tone != "plain":
            last.append(block.text if block.tone == "good" else f"warning: {block.text}")
        elif isinstance(block, Paragraph):
            yield encodable(block.text)
        elif isinstance(block, ReportTable):
            notes = [note for note in shown_notes(block.table) if note not in shown]
            shown |= {*notes}
            rows = aligned([shown_headings(block.table), *([*map(cell_text, row)] for row in block.table.rows)])
            lines = ("", block.table.title, *(f"  {row}" for row in rows), *(f"  * {note}" for note in notes))
            yield from map(encodable, lines)
    yield from map(encodable, last)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def encodable(text: str, encoding: str | None = None) -> str:
    """Return the text in characters that `encoding` can show. Default: the encoding of stdout."""
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "replace").decode()
    return text
