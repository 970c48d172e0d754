"""Parquet tables that are written in a stream, and appear under their name once they are whole."""

import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from psychocounsel.storage.files import fsync_directory

_ROWS = 10_000  # of a row group


class TableWriter:
    """Writes rows, given as mappings, to a parquet file of the given schema; use it in a `with` block.

    The file is there when the block has ended well. Otherwise what stood there before stays.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        import pyarrow.parquet as pq

        self.path, self.schema, self.count = path, schema, 0
        self._rows: list[Mapping[str, Any]] = []
        self._draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        self._writer = pq.ParquetWriter(self._draft, schema)

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= _ROWS:
            self._flush()

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self.add(row)

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._rows, self.schema))
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._rows:
                self._flush()
            self._writer.close()
            if kind is None:
                with open(self._draft, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self._draft, self.path)
                fsync_directory(self.path.parent)
        finally:
            self._draft.unlink(missing_ok=True)
