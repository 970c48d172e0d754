"""Limits of data files: how long a row may be, and how much a compressed file may expand to.

A file that is not compressed may have any size. A row of over 64 MB means that a file is broken or hostile. Compression rarely
makes texts ten times smaller, so a file that expands to over a hundred times its size is refused, unless the result is small.
"""

import bz2
import gzip
import io
import itertools
import lzma
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from psychocounsel.errors import UserError
from psychocounsel.storage.files import readable_size

LONGEST_ROW = 64_000_000  # bytes, or characters of a text file
_ALWAYS_ALLOWED = 256_000_000  # bytes to which any compressed file may expand
_MOST_TIMES = 100  # larger than the compressed file
_BATCH = 100  # rows of a parquet file in memory at a time: each of them may repeat one long text
_WIDEST = 8  # bytes of a number
_ROW_A_LINE = (".jsonl", ".ndjson", ".csv", ".tsv")


def most_expanded(file: Path) -> int:
    """Return the bytes to which a compressed file may expand."""
    return max(_ALWAYS_ALLOWED, _MOST_TIMES * file.stat().st_size)


def expands(file: Path) -> UserError:
    """Return the error for a compressed file that expands too much."""
    unpacked = "its table as .jsonl" if file.suffix.lower() == ".parquet" else "it unpacked"
    return UserError(
        f"{file}: its {readable_size(file.stat().st_size)} expand to more than {readable_size(most_expanded(file))}, which no "
        f"usual text does; if you trust the file, give {unpacked}"
    )


def too_long(file: Path, place: str) -> UserError:
    """Return the error for a row that is too long; `place`: where it stands in the file."""
    return UserError(
        f"{file}: {place} has more than {readable_size(LONGEST_ROW)}, the limit of a row; shorten or remove it"
    )


class Lines(Iterator[str]):
    """The lines of an open text file, whose rows may have several lines: call `end_row` after each.

    Raises:
        UserError: while lines are read, for a row that is too long, or a file that expands too much.
    """

    def __init__(self, file: Path, text: IO[str], is_compressed: bool) -> None:
        self._file, self._text, self._number, self._row, self._read = file, text, 0, 0, 0
        self._most = most_expanded(file) if is_compressed else float("inf")

    def end_row(self) -> None:
        self._row = 0

    def __next__(self) -> str:
        line = self._text.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        self._number, self._row, self._read = self._number + 1, self._row + len(line), self._read + len(line)
        if self._row > LONGEST_ROW:
            raise too_long(self._file, f"the row of line {self._number}")
        if self._read > self._most:
            raise expands(self._file)
        return line

    def rest(self) -> str:
        """Return the rest of the file as one text."""
        if self._most == float("inf"):
            return self._text.read()
        text = self._text.read(int(self._most) + 1)
        if len(text) > self._most:
            raise expands(self._file)
        return text


def parquet_batches(file: Path, table: Any) -> Iterator[Any]:
    """Yield the record batches of an open parquet file `table` [pyarrow.parquet.ParquetFile], each with few rows.

    Raises:
        UserError: for a row that is too long, or a file that expands too much.
    """
    import pyarrow as pa

    most, read, number = most_expanded(file), 0, 0
    groups = [table.metadata.row_group(place) for place in range(table.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    if sum(max(column.total_uncompressed_size, _WIDEST * column.num_values) for column in columns) > most:
        raise expands(file)  # known before a page is read
    for batch in table.iter_batches(_BATCH):
        if any(map(pa.types.is_dictionary, batch.schema.types)):  # their size does not count repetitions
            plain = [part.dictionary_decode() if pa.types.is_dictionary(part.type) else part for part in batch.columns]
            batch = pa.record_batch(plain, batch.schema.names)
        if batch.nbytes > LONGEST_ROW:
            for place in range(len(batch)):
                if batch.slice(place, 1).nbytes > LONGEST_ROW:
                    raise too_long(file, f"row {number + place + 1}")
        number, read = number + len(batch), read + batch.nbytes
        if read > most:
            raise expands(file)
        yield batch


def _zstd(file: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(file), compression="zstd")


_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd}


def check_sizes(file: Path) -> None:
    """Check a file that a library will read whole or unpack; damaged and unknown files are left to the library.

    Raises:
        UserError: for a row that is too long, or a file that expands too much.
    """
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(file) as table:
                for _ in parquet_batches(file, table):
                    pass
        elif file.suffix.lower() == ".zip":
            with zipfile.ZipFile(file) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > most_expanded(file):
                    raise expands(file)
        else:
            _check_lines(file)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zipfile.BadZipFile):
        return


def _check_lines(file: Path) -> None:
    opener = _OPENERS.get(file.suffix.lower())
    kind = file.with_suffix("").suffix if opener else file.suffix
    has_rows = kind.lower() in _ROW_A_LINE
    if not opener and not has_rows:
        return
    most, read = most_expanded(file) if opener else float("inf"), 0
    with io.BufferedReader(opener(file)) if opener else open(file, "rb") as stream:
        for number in itertools.count(1):
            line = stream.readline(LONGEST_ROW + 1)
            if not line:
                return
            read += len(line)
            if has_rows and len(line) > LONGEST_ROW:
                raise too_long(file, f"line {number}")
            if read > most:
                raise expands(file)
