"""Strict readers for files of public sets: errors name the file and, where possible, the line; they quote no text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.data.files import without_doubles
from psychocounsel.errors import UserError
from psychocounsel.storage.files import with_noun


def refused(path: Path, line: int, why: str) -> UserError:
    """Return an error about a line of a file; lines count from 1."""
    return UserError(f"{path}, line {line}: {why}")


def utf8_text(path: Path) -> str:
    """Return the text of a file without its byte order mark; line ends stay unchanged.

    Raises:
        UserError: if the file cannot be read or is not UTF-8; the error then names the line.
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
    """Row of a table: the line in which it begins, and its cells by column, stripped of surrounding spaces."""

    line: int
    cells: Mapping[str, str]


def bundle_files(place: Path, key: str, name: str, what: str) -> list[Path]:
    """Return the files that `place`, a checkout of VERA-MH, one of its folders or a file, names for `key`; `what` they are.

    Since version 2, each folder below `data` has a manifest.json, which names its files under `key`. Before, `data` held one
    file `name` of each kind.

    Raises:
        UserError: if there is no such file, several folders have one, or a manifest is malformed.
    """
    if place.is_file():
        return [place]
    own = place / "manifest.json"
    manifests = [own] if own.is_file() else sorted(place.glob("data/*/manifest.json"))
    single = [file for file in (place / "data" / name, place / name) if file.is_file()]
    if single and not manifests:
        return single[:1]
    if len(manifests) > 1:
        raise UserError(f"{place}: has several sets; give one of {', '.join(str(file.parent) for file in manifests)}")
    if not manifests:
        raise UserError(
            f"{place}: has no {what}; give a file such as {name}, or a checkout of VERA-MH or one of its folders below data"
        )
    try:
        named = json.loads(utf8_text(manifests[0]))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifests[0]}: is not JSON with the key {key}") from error
    files = [manifests[0].parent / str(file) for file in (named if isinstance(named, list) else [named])]
    if not files:
        raise UserError(f"{manifests[0]}: names no {what} under {key}")
    for file in files:
        if not file.is_file():
            raise UserError(f"{manifests[0]}: names {file.name}, which is not beside it")
    return files


def tsv_rows(path: Path, needed: Collection[str]) -> list[TableRow]:
    """Return the rows of a table with tab-separated cells. Cells with a tab, quotation mark or line end must be quoted.

    Empty lines and columns without a name are skipped. Other columns than `needed` are optional: a row may end before them.

    Raises:
        UserError: if the file cannot be read, a needed column is missing, a column is repeated, a row is too long or lacks a
            needed cell, or quotation marks are wrong.
    """
    lines = _split(path)
    line, header = next(lines, (1, []))
    columns = [name.strip() for name in header]
    named = [name for name in columns if name]
    if missing := [name for name in needed if name not in columns]:
        raise refused(path, line, f"has no column {missing[0]}; it needs {', '.join(needed)}, separated by tabs")
    if len(set(named)) < len(named):
        raise refused(path, line, "has two columns of the same name")
    rows, last = [], max(columns.index(name) for name in needed)
    for line, cells in lines:
        if not last < len(cells) <= len(columns):
            raise refused(path, line, f"has {with_noun(len(cells), 'cell')}, but the header has {len(columns)}")
        padded = [*cells, *[""] * (len(columns) - len(cells))]
        by_name = {name: cell.strip() for name, cell in zip(columns, padded, strict=True) if name}
        rows.append(TableRow(line, by_name))
    return rows


def _split(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each non-empty row with the line in which it begins."""
    reader = csv.reader(io.StringIO(utf8_text(path), newline=""), delimiter="\t", strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise refused(path, line, f"has wrong quotation marks ({error})") from error
        if cells:
            yield line, cells


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the JSON object of each non-empty line.

    Raises:
        UserError: if the file cannot be read, or a line is not a JSON object.
    """
    for line, text in enumerate(utf8_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text, object_pairs_hook=without_doubles)
        except UserError as error:
            raise refused(path, line, str(error)) from error
        except (ValueError, RecursionError) as error:
            raise refused(path, line, "is not valid JSON") from error
        if not isinstance(value, dict):
            raise refused(path, line, "is not a JSON object")
        yield line, value
