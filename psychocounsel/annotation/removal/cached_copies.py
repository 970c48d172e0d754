"""Deletes cached copies of a dataset: tokenised copies, and tables of the `datasets` library."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from psychocounsel.annotation.removal.row_filter import id_columns
from psychocounsel.data import tokenised_cache


def remove_copies(dataset: Path, cache: Path, is_removed: Callable[[str], bool]) -> int:
    """Delete tokenised copies of `dataset`, and `datasets` tables with a removed speech; returns their number."""
    tokenised = [entry for entry in tokenised_cache.entries(cache) if _names(entry.of, dataset.resolve())]
    for file in (file for entry in tokenised for file in entry.files):
        file.unlink(missing_ok=True)
    converted = {file.parent for file in _arrow_files() if any(map(is_removed, _speeches(file)))}
    for folder in converted:
        shutil.rmtree(folder)
    return len(tokenised) + len(converted)


def _names(text: str, dataset: Path) -> bool:
    """Return True if a cache entry was tokenised from `dataset` or a file in it; `text` lists the entry's sources."""
    return re.search(rf"(^|, ){re.escape(str(dataset))}(/[^:]*)?(: |, )", text) is not None


def _arrow_files() -> list[Path]:
    """Return all tables in the cache of `datasets`, because their folders do not show which dataset they come from."""
    import datasets

    return sorted(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow"))


def _speeches(file: Path) -> Iterator[str]:
    """Yield the ids of speeches in a table of `datasets`; a damaged table is read as far as possible."""
    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as reader:
            columns = id_columns(reader.schema)
            for batch in reader if columns else ():
                for column in columns:
                    yield from (each for each in pc.unique(batch[column]).to_pylist() if each is not None)
    except (OSError, pa.ArrowException):
        return
