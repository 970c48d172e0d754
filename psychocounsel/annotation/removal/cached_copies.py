"""Copies of a dataset that caches hold: tokenised, and in the form of the `datasets` library."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from psychocounsel.data import tokenised_cache


def remove_copies(dataset: Path, cache: Path) -> int:
    """Remove every entry of both caches that was made from files in `dataset`; how many these were."""
    tokenised = [entry for entry in tokenised_cache.entries(cache) if _names(entry.of, dataset.resolve())]
    for file in (file for entry in tokenised for file in entry.files):
        file.unlink(missing_ok=True)
    converted = list(_converted(dataset.resolve()))
    for folder in converted:
        shutil.rmtree(folder, ignore_errors=True)
    return len(tokenised) + len(converted)


def _names(text: str, dataset: Path) -> bool:
    """Whether the description of a tokenised entry names the folder, or a file in it, as one of its sources."""
    return re.search(rf"(^|, ){re.escape(str(dataset))}(/[^:]*)?(: |, )", text) is not None


def _converted(dataset: Path) -> Iterator[Path]:
    """The folders of the cache of `datasets` that hold what was loaded from `dataset`."""
    import datasets

    for file in Path(datasets.config.HF_DATASETS_CACHE).rglob("dataset_info.json"):
        try:
            sources = json.loads(file.read_text()).get("download_checksums") or {}
        except (OSError, ValueError, AttributeError):
            continue
        if any(Path(str(source)).is_relative_to(dataset) for source in map(os.path.realpath, sources)):
            yield file.parent
