"""Blocks of a section or an evaluation, as tests read them: rows by heading, texts by tone."""

from collections.abc import Mapping, Sequence
from typing import Any

from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable, Section, SpeechBrowser
from psychocounsel.blocks.tables import TableFigure

Row = dict[str, Any]
Shown = Section | Sequence[Block]


def _blocks(shown: Shown) -> Sequence[Block]:
    return shown.blocks if isinstance(shown, Section) else shown


def rows(shown: Shown, name: str) -> list[Row]:
    """Return the rows of the table `name`, each as a dictionary by heading."""
    [table] = [each.table for each in _blocks(shown) if isinstance(each, ReportTable) and each.name == name]
    return [dict(zip(table.headings, row, strict=True)) for row in table.rows]


def tables(shown: Shown) -> list[str]:
    return [each.name for each in _blocks(shown) if isinstance(each, ReportTable)]


def chart(shown: Shown, name: str) -> Chart:
    [found] = [each for each in _blocks(shown) if isinstance(each, Chart) and each.name == name]
    return found


def browsers(shown: Shown) -> list[SpeechBrowser]:
    return [each for each in _blocks(shown) if isinstance(each, SpeechBrowser)]


def said(shown: Shown, tone: str | None = None) -> list[str]:
    return [each.text for each in _blocks(shown) if isinstance(each, Paragraph) and tone in (None, each.tone)]


def numbers(cell: Any) -> tuple[float, float | None, float | None]:
    """Return value and interval of a cell with all digits."""
    assert isinstance(cell, TableFigure), cell
    return cell.value, cell.low, cell.high


def written(found: Mapping[str, Any], value: str = "value") -> tuple[float, float | None, float | None]:
    """Return a figure and its interval as the evaluation wrote them."""
    return found[value], found["low"], found["high"]


def column(found: Sequence[Row], heading: str) -> list[Any]:
    return [row[heading] for row in found]
