"""Rows of one file: JSONL, JSON, CSV, TSV, parquet or a transcript, also compressed by gzip but for parquet."""

import contextlib
import csv
import gzip
import itertools
import json
import re
import shlex
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from psychocounsel.data.base import Row
from psychocounsel.data.file_sizes import LONGEST_ROW, Lines, parquet_batches
from psychocounsel.data.messages import TALKS, WITHOUT_SPEAKERS, first_of, is_bare_talk, is_transcript
from psychocounsel.data.rows import is_missing
from psychocounsel.data.settings import DELIMITERS
from psychocounsel.errors import UserError, words
from psychocounsel.storage.files import with_noun

_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LONGEST_NUMBER = 40  # digits; Python refuses to parse very long ones
_LFS = b"version https://git-lfs.github.com/spec/"


def file_rows(
    file: Path, texts: Collection[str], delimiter: str | None, name: str = ""
) -> Iterator[tuple[str, Row | UserError]]:
    """Yield each row of a file with its place, or the error of a row that cannot be read.

    `texts`: columns of a table whose cells stay texts even if all of them are numbers. `delimiter`: one of DELIMITERS, by
    default the tab in a TSV file, the comma in others, or the only other one that the header has. `name`: the file's name
    in places; by default its last part.

    Raises:
        UserError: for a file of another kind, or one that cannot be read as a whole, or exceeds the limits of file_sizes.
    """
    name, read_table = name or file.name, partial(_table, texts, delimiter)
    readers: dict[str, Callable[[Path, str], Iterator[tuple[str, Row | UserError]]]]
    readers = {
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".json": _json,
        ".parquet": _parquet,
        ".txt": _text,
        ".csv": read_table,
        ".tsv": read_table,
    }
    kind = kind_of(file)
    if kind not in readers or (_is_gzip(file) and kind == ".parquet"):
        hint = "save the table as CSV UTF-8, or " if kind in (".xlsx", ".xls", ".ods") else ""
        raise UserError(
            f"{file}: unknown kind of file; {hint}use {', '.join(readers)}, all but .parquet also as .gz, or a folder"
        )
    with open(file, "rb") as beginning:
        start = beginning.read(len(_LFS))
    if start == _LFS:
        raise UserError(f"{file}: holds only a pointer of Git LFS; run git lfs pull in its repository")
    if kind != ".parquet" and not _is_gzip(file) and b"\0" in start[:2]:  # UTF-16 without a mark is valid UTF-8
        raise _not_utf8(file, "utf-16be" if start[0] == 0 else "utf-16le", start.index(0))
    try:
        yield from readers[kind](file, name)
    except UnicodeDecodeError as error:
        encoding = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
        raise _not_utf8(file, encoding, error.start) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file}: is not a complete gzip file") from error


def _not_utf8(file: Path, encoding: str, place: int) -> UserError:
    return UserError(
        f"{file}: is not UTF-8 text (byte {place}); convert it, for instance by "
        f"iconv -f {encoding} -t utf-8 {shlex.quote(str(file))} > NEW_FILE"
    )


def kind_of(file: Path) -> str:
    """Return a file's suffix in lower case, without `.gz`."""
    return (file.with_suffix("").suffix if _is_gzip(file) else file.suffix).lower()


def _is_gzip(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Lines]:
    is_gzip = _is_gzip(file)
    with gzip.open(file, "rt", encoding="utf-8-sig") if is_gzip else open(file, encoding="utf-8-sig") as text:
        yield Lines(file, text, is_gzip)


def _jsonl(file: Path, name: str) -> Iterator[tuple[str, Row | UserError]]:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            lines.end_row()
            if line.strip():
                where = f"{name} line {number}"
                value = _parse_json(line, where, "; a line holds one object and no comma after it")
                if number == 1 and line.lstrip()[0] == "[" and not is_bare_talk(value):
                    raise UserError(f"{file}: holds a list, and not one JSON object a line; name it .json")
                yield where, value if isinstance(value, UserError) else _object(value, where)


def _text(file: Path, name: str) -> Iterator[tuple[str, Row | UserError]]:
    """Yield the one row of a file that is a transcript: `Client: ...` and `Counselor: ...`, a line for each turn."""
    with _open(file) as lines:
        text = lines.rest()
    if not is_transcript(text):
        raise UserError(f"{file}: {WITHOUT_SPEAKERS} (rows of other kinds belong in a .jsonl or .csv file)")
    yield name, {TALKS[0]: text}


def _json(file: Path, name: str) -> Iterator[tuple[str, Row | UserError]]:
    with _open(file) as lines:
        rows = _parse_json(lines.rest(), name, "; a file with one object a line is named .jsonl")
    if isinstance(rows, UserError):
        raise rows
    if is_bare_talk(rows) or (isinstance(rows, Mapping) and first_of(rows, TALKS)):  # a file for each conversation
        rows = [rows]
    if not isinstance(rows, list):
        raise UserError(f"{file}: must hold a list of rows; one JSON object a line belongs in a .jsonl file")
    yield from numbered(rows, name)


def _parse_json(text: str, where: str, extra: str) -> Any:
    """Return the parsed text, or a UserError that says why it cannot be parsed; `extra`: what to do if text follows the value."""
    try:
        return json.loads(text, object_pairs_hook=without_doubles)
    except UserError as error:
        return UserError(f"{where}: {error}")
    except json.JSONDecodeError as error:
        hint = extra if error.msg == "Extra data" else ""
        if text.strip() == "{":
            hint = "; write each object in one line"
        reason = error.msg.removesuffix(" at")
        return UserError(f"{where}: is not valid JSON ({reason} at line {error.lineno} column {error.colno}){hint}")
    except RecursionError:
        return UserError(f"{where}: cannot be parsed: its JSON is nested too deeply")
    except ValueError:  # Python limits the digits of an integer
        return UserError(
            f"{where}: cannot be parsed: it has a number of more than {sys.get_int_max_str_digits()} digits"
        )


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key twice, because Python would silently keep only the last value."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise UserError(f"has the key {words(twice)} twice; keep one of them")
    return row


def _table(
    texts: Collection[str], delimiter: str | None, file: Path, name: str
) -> Iterator[tuple[str, Row | UserError]]:
    """Yield rows of a CSV or TSV file with a header line. Empty cells are missing, and empty rows are skipped.

    A column is numbers if all its cells are numbers or words for a missing one, except a column of texts or ids.
    """
    numbers: dict[str, bool] = {}
    for _, row in _cells(delimiter, file, name):
        for column, cell in row.items() if isinstance(row, dict) else ():
            if not is_missing(cell):
                numbers[column] = numbers.get(column, column not in texts) and is_number(cell or "")
    for where, row in _cells(delimiter, file, name):
        if isinstance(row, dict):
            yield where, {key: _as_number(cell) if cell and numbers.get(key) else cell for key, cell in row.items()}
        else:
            yield where, row


def _as_number(cell: str) -> int | float | None:
    return None if is_missing(cell) else int(cell) if cell.lstrip("-").isdigit() else float(cell)


def is_number(text: str) -> bool:
    """Return True for a decimal number of a length that Python parses."""
    return len(text) <= _LONGEST_NUMBER and bool(_NUMBER.fullmatch(text))


def _cells(delimiter: str | None, file: Path, name: str) -> Iterator[tuple[str, dict[str, str | None] | UserError]]:
    """Yield the cells of each row as texts, None for an empty cell."""
    csv.field_size_limit(LONGEST_ROW)
    mark = DELIMITERS[delimiter or ("tab" if ".tsv" in [suffix.lower() for suffix in file.suffixes] else "comma")]
    with _open(file) as lines:
        first = next(lines, "")
        if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:  # Excel
            delimiter, mark, first = first, first[4], next(lines, "")
        while first and not first.strip():
            first = next(lines, "")
        others = [other for other in DELIMITERS.values() if other in first]
        if not delimiter and mark not in first and len(others) == 1:
            mark = others[0]
        reader = csv.reader(itertools.chain([first], lines), delimiter=mark, skipinitialspace=True, strict=True)
        number = 0
        try:
            header = [column.strip() for column in next(reader, [])]
            _check_header(file, header, mark)
            for cells in reader:
                lines.end_row()
                if not any(cell.strip() for cell in cells):
                    continue
                number += 1
                where = f"{name} row {number}"
                if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
                    hint = f"; put texts that contain {mark!r} in quotation marks" if len(cells) > len(header) else ""
                    counts = f"has {with_noun(len(cells), 'cell')}, but the header has {len(header)}"
                    yield where, UserError(f"{where}: {counts}{hint}")
                    continue
                yield where, {column: cell or None for column, cell in zip(header, cells, strict=False)}
        except csv.Error as error:
            raise UserError(
                f"{name}: row {number + 1} or the row before has wrong quotation marks ({error}); a cell with such marks or "
                'line breaks stands in quotation marks, and each mark inside is written twice: "He said ""no""."'
            ) from error


def _check_header(file: Path, header: Sequence[str], mark: str) -> None:
    if doubled := [name for name, count in Counter(header).items() if count > 1 and name]:
        raise UserError(f"{file}: has two columns {words(doubled[0])}")
    others = [name for name, other in DELIMITERS.items() if other != mark and other in "".join(header)]
    if len(header) == 1 and len(others) == 1:
        raise UserError(f"{file}: a {others[0]} separates its cells: add data.delimiter={others[0]}")


def _parquet(file: Path, name: str) -> Iterator[tuple[str, Row | UserError]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def rows() -> Iterator[Any]:
        try:
            table = pq.ParquetFile(file)
            names = table.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f"{file}: has two columns {twice}; rename one of them")
            for batch in parquet_batches(file, table):
                yield from batch.to_pylist()
        except (OSError, ValueError, OverflowError, pa.ArrowException) as error:  # ValueError: a time out of range
            raise UserError(f"{file}: is not a parquet file ({words(str(error).splitlines()[0])})") from error

    yield from numbered(rows(), name)


def numbered(rows: Iterable[Any], name: str) -> Iterator[tuple[str, Row | UserError]]:
    """Yield each row with its place, or an error if it is no mapping of columns."""
    for number, row in enumerate(rows, 1):
        where = f"{name} row {number}"
        yield where, _object(row, where)


def _object(row: Any, where: str) -> Row | UserError:
    if is_bare_talk(row):
        return {TALKS[0]: row}
    return row if isinstance(row, Mapping) else UserError(f"{where}: must be a JSON object")
