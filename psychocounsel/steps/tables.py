"""Reads and writes the parquet tables of a directory of steps.

A table appears under its name only when it is complete, so a killed step leaves no partial table. Rows are held in memory a
few thousand at a time, so a table of ten million rows fits.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from psychocounsel.errors import UserError
from psychocounsel.storage.files import replacing, temporary_name

Row = dict[str, Any]

_ROWS = 4096  # in a row group


@contextlib.contextmanager
def written(path: Path, schema: pa.Schema) -> Iterator[Callable[[Row], None]]:
    """Give a function that adds a row to a new table. The file appears at `path` when the block ends without an error."""
    rows = list[Row]()
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:

        def add(row: Row) -> None:
            rows.append(row)
            if len(rows) == _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()

        yield add
        if rows:  # `datasets` cannot read an empty row group
            writer.write_table(pa.Table.from_pylist(rows, schema))


class Sorter:
    """Sorts rows that arrive in any order by speech.

    Rows wait in a temporary folder next to the path `beside`, in up to 256 files: speeches whose ids begin with the
    same two characters share a file. Only one file at a time is read and sorted in memory.
    """

    def __init__(self, beside: Path) -> None:
        self.folder = temporary_name(beside)
        self.files: dict[str, IO[str]] = {}

    def __enter__(self) -> "Sorter":
        self.folder.mkdir()
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files.values():
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, row: Row) -> None:
        """Add a row of a speech."""
        beginning = str(row["speech"])[:2].encode().hex()
        if beginning not in self.files:
            self.files[beginning] = open(self.folder / beginning, "w+", encoding="utf-8")
        self.files[beginning].write(json.dumps(row) + "\n")

    def rows(self) -> Iterator[Row]:
        """Yield all rows added so far, sorted."""
        for beginning in sorted(self.files):
            file = self.files[beginning]
            file.flush()
            file.seek(0)
            yield from sorted(map(json.loads, file), key=itemgetter("speech"))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a table for reading in the block.

    Raises:
        UserError: if the table does not exist or is damaged.
    """
    try:
        with pq.ParquetFile(path) as table:
            yield table
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; first run the step that writes it ({path.stem})") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: is not a complete parquet file; remove it and run its step again") from error


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table in file order, with only these columns.

    Raises:
        UserError: if the table does not exist, is damaged or lacks a column.
    """
    with opened(path) as table:
        if lacking := [name for name in columns if name not in table.schema_arrow.names]:
            raise UserError(f"{path}: has no column {lacking[0]}; run the step that writes this table again")
        for batch in table.iter_batches(_ROWS, columns=list(columns)):
            yield from batch.to_pylist()


def by_speech(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    """Yield each speech with its rows, from a table ordered by speech. `columns` need not contain `speech`.

    Raises:
        UserError: for the same reasons as `rows_of`, or if the table is not ordered by speech.
    """
    current, rows = "", list[Row]()
    for row in rows_of(path, ["speech", *(name for name in columns if name != "speech")]):
        if row["speech"] != current:
            if row["speech"] < current:
                raise UserError(f"{path}: is not ordered by speech; run the step that writes this table again")
            if rows:
                yield current, rows
            current, rows = row["speech"], []
        rows.append(row)
    if rows:
        yield current, rows


def joined(
    first: Iterable[tuple[str, list[Row]]], *others: Iterable[tuple[str, list[Row]]]
) -> Iterator[list[list[Row]]]:
    """Yield, for each speech of `first`, its rows in `first` and in each of `others`; all are ordered by speech."""
    streams = [iter(other) for other in others]
    ahead = [next(stream, None) for stream in streams]
    for speech, rows in first:
        row_lists = [rows]
        for place, stream in enumerate(streams):
            while (head := ahead[place]) is not None and head[0] < speech:
                ahead[place] = next(stream, None)
            row_lists.append(head[1] if head is not None and head[0] == speech else [])
        yield row_lists
