"""Splits the cleaning of large sources among jobs: each job cleans a share of the rows, and one job joins the shares.

Rows of all sources are numbered from 0 and cut into blocks of `BLOCK` rows. Of `count` jobs, job `index` cleans the blocks
whose number modulo `count` is `index`. Each block is a row group of the share's table, so only one block at a time is in
memory.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import count as counted
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from psychocounsel.annotation.speeches.cleaning import CleanedRow, CleanSpeech
from psychocounsel.annotation.speeches.tables import DRAFT
from psychocounsel.annotation.steps import due_steps
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.storage.files import replacing

BLOCK = 1000  # rows
_SHARE = pa.schema([*DRAFT, *((name, pa.string()) for name in ("placeholders", "outcome", "bad"))])
T = TypeVar("T")


def share_of_rows(rows: Iterable[T], share: tuple[int, int]) -> Iterator[T]:
    """Yield the rows that one job cleans, in order; `share` is (index, count)."""
    index, count = share
    return (row for number, row in enumerate(rows) if number // BLOCK % count == index)


def write_share(rows: Iterable[CleanedRow], path: Path, bar: Callable[..., Any]) -> dict[str, int]:
    """Write the cleaned rows of a share to `path`; returns the number of rows and of speeches."""
    read = speeches = 0
    stream = iter(bar(rows, "rows of this share"))
    with replacing(path) as temporary, pq.ParquetWriter(temporary, _SHARE, compression="zstd") as writer:
        while block := list(islice(stream, BLOCK)):
            writer.write_table(pa.Table.from_pylist([_as_columns(row) for row in block], _SHARE), row_group_size=BLOCK)
            read += len(block)
            speeches += sum(isinstance(row.outcome, CleanSpeech) for row in block)
    return {"rows": read, "speeches": speeches}


def finished_shares(config: DictConfig) -> list[Path]:
    """Return the tables of all shares, in order, or [] if any job has not finished its share with these settings."""
    if config.get("shards", 1) == 1:
        return []
    tables, whole = list[Path](), AnnotationDir(Path(config.out))
    for index in range(config.shards):
        own = deepcopy(config)
        own.steps, own.share = ["speeches"], index
        if not (table := whole.cleaning(index).speeches).exists() or any(step.due for step in due_steps(own)):
            return []
        tables.append(table)
    return tables


def rows_of_shares(tables: Sequence[Path]) -> Iterator[CleanedRow]:
    """Yield the rows of all shares in the order of the sources.

    Raises:
        UserError: if a table cannot be read.
    """
    try:
        files = [pq.ParquetFile(table) for table in tables]
        for number in counted():
            group, index = divmod(number, len(files))
            if group >= files[index].num_row_groups:
                return
            yield from map(_from_columns, files[index].read_row_group(group).to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{tables[0].parent.parent}: holds a damaged table of cleaned speeches: remove the folder and run the same "
            "command again"
        ) from error


def forget_shares(files: AnnotationDir) -> None:
    """Delete the tables of all shares; speeches.parquet holds their speeches."""
    for table in files.shards.glob(f"*/{files.cleaning(0).speeches.name}"):
        table.unlink()


def _as_columns(row: CleanedRow) -> dict[str, Any]:
    if isinstance(row.outcome, CleanSpeech):
        return {**row.outcome.columns, "placeholders": json.dumps(row.outcome.kinds)}
    return {"source": row.source, "row": row.row, "outcome": row.outcome, "bad": row.bad}


def _from_columns(columns: dict[str, Any]) -> CleanedRow:
    placeholders, outcome, bad = (columns.pop(name) for name in ("placeholders", "outcome", "bad"))
    if outcome is None:
        outcome = CleanSpeech(columns, Counter(json.loads(placeholders)))
    return CleanedRow(columns["source"], columns["row"], outcome, bad)
