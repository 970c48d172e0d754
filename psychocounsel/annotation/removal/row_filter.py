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

_COLUMNS = ("speech", "ID", "of")  # where tables hold ids of speeches; of: what a dropped speech doubles
_ROWS = 1 << 14


def speeches_of(path: Path) -> Iterator[str]:
    """The ids of the speeches in a table, each at least once; none where the table holds none.

    Raises:
        UserError: if it is no whole parquet file.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = id_columns(file.schema_arrow)
            for batch in file.iter_batches(_ROWS, columns=columns) if columns else ():
                for column in columns:
                    yield from (each for each in pc.unique(batch[column]).to_pylist() if each is not None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: is no whole parquet file; remove it, and run its step again") from error


def id_columns(schema: pa.Schema) -> list[str]:
    """The columns with ids of speeches; most tables have one."""
    return [name for name in _COLUMNS if name in schema.names and pa.types.is_string(schema.field(name).type)]


def doubles_of(path: Path, speeches: Container[str]) -> Iterator[str]:
    """The ids of the speeches that were dropped as doubles of `speeches`; none where the table is not about dropped ones."""
    if {"speech", "of"} <= {*id_columns(pq.read_schema(path))}:
        yield from (row["speech"] for row in rows_of(path, ["speech", "of"]) if row["of"] in speeches and row["speech"])


def drop_rows(path: Path, is_removed: Callable[[str], bool]) -> int:
    """Take the rows of removed speeches out of a table; how many these were. All others keep their order and values.

    A table without such rows is left as it is. The new table has the permissions of the old one.
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
