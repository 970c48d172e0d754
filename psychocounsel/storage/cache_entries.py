"""Entries of the shared caches: `cache list` prints them, and `cache prune` removes them."""

import contextlib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.storage.blob import Damaged, Foreign, read_about
from psychocounsel.storage.files import readable_size, with_noun
from psychocounsel.storage.locks import holder

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_UNFINISHED_SECONDS = 3600  # a temporary file without a write for this long was left by a killed process


@dataclass
class Entry:
    """One cache entry: its `files` are removed together, unless a live process holds one of its `locks`."""

    kind: str
    of: str = "?"  # the data that the entry was made from, for display
    rows: int = 0
    used: float = 0.0  # seconds since 1970
    files: list[Path] = field(default_factory=list)
    locks: list[Path] = field(default_factory=list)
    folder: Path | None = None  # removed with the last file in it

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.files if file.exists())

    def line(self) -> str:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.used))
        return f"{self.kind:<11}{self.rows:>9,} rows {readable_size(self.size()):>9}  {used}  {self.of}"


def about_of(file: Path) -> dict[str, Any] | None:
    """Return the description in a cache file; of a damaged file, "damaged"; None if the file is not ours or is gone."""
    try:
        return read_about(file)
    except Damaged:
        return {"of": "damaged", "rows": 0}
    except (Foreign, OSError):
        return None


def show(entries: list[Entry], cache: Path) -> None:
    """Print a line for each entry, the most recently used first, and a line with their number and total size."""
    for entry in sorted(entries, key=lambda entry: -entry.used):
        print(entry.line())
    size = sum(entry.size() for entry in entries)
    print(f"{with_noun(len(entries), 'entry', 'entries')}, {readable_size(size)} in {cache}")


def prune(entries: list[Entry], cache: Path, folders: Iterable[Path], dry_run: bool) -> None:
    """Remove the entries that no live process holds, and temporary files of killed processes in `folders` of the cache."""
    count = freed = 0
    for entry in entries:
        if owner := next(filter(None, map(holder, entry.locks)), None):
            print(f"kept, in use by process {owner['pid']} on {owner['host']}: {entry.line()}")
            continue
        print(f"{'would remove' if dry_run else 'removed'} {entry.line()}")
        count, freed = count + 1, freed + entry.size()
        if not dry_run:
            _remove(entry)
    if not dry_run:
        for folder in folders:
            _remove_unfinished(folder)
    print(
        f"{'would free' if dry_run else 'freed'} {readable_size(freed)} in {with_noun(count, 'entry', 'entries')} of {cache}"
    )


def _remove(entry: Entry) -> None:
    for file in [*entry.files, *entry.locks]:
        file.unlink(missing_ok=True)
    if entry.folder is None:
        return
    for file in entry.folder.iterdir():
        if _TEMPORARY.fullmatch(file.name):
            file.unlink(missing_ok=True)
    try:
        entry.folder.rmdir()
    except OSError:
        print(f"kept the folder {entry.folder}: it also holds files that are not ours")


def _remove_unfinished(folder: Path) -> None:
    for file in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if _TEMPORARY.fullmatch(file.name) and time.time() - file.stat().st_mtime > _UNFINISHED_SECONDS:
                file.unlink()
