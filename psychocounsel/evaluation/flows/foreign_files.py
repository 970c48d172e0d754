"""Reads files of public sets strictly: every error names the file and the line, and quotes nothing of the texts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError


def refused(path: Path, line: int, why: str) -> UserError:
    """The error about a line of a file, counted from 1."""
    return UserError(f"{path}, line {line}: {why}")


def utf8_text(path: Path) -> str:
    """The text of a file without a byte order mark, its line ends as they are.

    Raises:
        UserError: if it cannot be read, or is no UTF-8 (naming the line).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(path, content.count(b"\n", 0, error.start) + 1, "is not UTF-8") from error


@dataclass(frozen=True)
class TableRow:
    """A row of a table: the line that it begins in, and its cells by column, without spaces around them."""

    line: int
    cells: Mapping[str, str]


def tsv_rows(path: Path, needed: Collection[str], more: bool) -> list[TableRow]:
    """The rows of a table with tabs between its cells; a cell with a tab, a quotation mark or a line end stands in quotes.

    Empty lines are left out, and so are columns without a name.

    Args:
        needed: columns that must be there.
        more: whether other columns may be there, too.

    Raises:
        UserError: naming the line, for a missing, unknown or double column, a row of another length, or a wrong quotation.
    """
    lines = _split(path)
    line, header = next(lines, (1, []))
    columns = [name.strip() for name in header]
    named = [name for name in columns if name]
    if missing := [name for name in needed if name not in columns]:
        raise refused(path, line, f"has no column {missing[0]}; it needs {', '.join(needed)}, with tabs between them")
    if len(set(named)) < len(named):
        raise refused(path, line, "has a column twice")
    if not more and len(columns) > len(needed):
        raise refused(path, line, f"has other columns than {', '.join(needed)}")
    found = []
    for line, cells in lines:
        if len(cells) != len(columns):
            raise refused(path, line, f"has {len(cells)} cells, and the header {len(columns)}")
        by_name = {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if name}
        found.append(TableRow(line, by_name))
    return found


def _split(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not empty, with the line that it begins in."""
    reader = csv.reader(io.StringIO(utf8_text(path), newline=""), delimiter="\t", strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise refused(path, line, f"quotation marks do not fit ({error})") from error
        if cells:
            yield line, cells


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and object of each line that is not empty.

    Raises:
        UserError: naming the line, for what is no JSON object.
    """
    for line, text in enumerate(utf8_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise refused(path, line, "is not valid JSON") from error
        if not isinstance(value, dict):
            raise refused(path, line, "is no JSON object")
        yield line, value
