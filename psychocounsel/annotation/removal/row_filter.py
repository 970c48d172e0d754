"""Finds rows of given speeches in parquet tables, and rewrites the tables without them, batch by batch."""

import os
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from psychocounsel.errors import UserError
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import replacing

_COLUMNS = ("speech", "ID", "of")  # columns with ids of speeches; `of` is the speech that a dropped one duplicates
_ROWS = 1 << 14


def speeches_of(path: Path) -> Iterator[str]:
    """Yield the ids of the speeches in a table, each at least once; nothing for a table without ids.

    Raises:
        UserError: if the file is not a complete parquet file.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = id_columns(file.schema_arrow)
            for batch in file.iter_batches(_ROWS, columns=columns) if columns else ():
                for column in columns:
                    yield from (each for each in pc.unique(batch[column]).to_pylist() if each is not None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: is not a complete parquet file; remove it and run its step again") from error


def id_columns(schema: pa.Schema) -> list[str]:
    """Return the columns with ids of speeches; most tables have one."""
    return [name for name in _COLUMNS if name in schema.names and pa.types.is_string(schema.field(name).type)]


def doubles_of(path: Path, speeches: Container[str]) -> Iterator[str]:
    """Yield the ids of speeches that were dropped as duplicates of `speeches`; nothing for tables without dropped speeches."""
    if {"speech", "of"} <= {*id_columns(pq.read_schema(path))}:
        yield from (row["speech"] for row in rows_of(path, ["speech", "of"]) if row["of"] in speeches and row["speech"])


def drop_rows(path: Path, is_removed: Callable[[str], bool]) -> int:
    """Delete the rows of removed speeches from a table; returns their number. The other rows keep their order and values.

    A table without such rows is not rewritten. The new file has the permissions of the old one.

    Raises:
        UserError: if the file is not a complete parquet file.
    """
    if not any(map(is_removed, speeches_of(path))):
        return 0
    dropped = 0
    with replacing(path) as temporary, pq.ParquetFile(path) as file:
        columns = id_columns(file.schema_arrow)
        with pq.ParquetWriter(temporary, file.schema_arrow, compression="zstd") as writer:
            for batch in file.iter_batches(_ROWS):
                kept = batch
                for column in columns:
                    gone = [each for each in pc.unique(kept[column]).to_pylist() if each and is_removed(each)]
                    kept = kept.filter(pc.invert(pc.is_in(kept[column], pa.array(gone, pa.string()))))
                dropped += batch.num_rows - kept.num_rows
                if kept.num_rows:
                    writer.write_batch(kept)
        os.chmod(temporary, path.stat().st_mode & 0o777)
    return dropped
