"""What tells files from others: a hash of what they hold, kept in a note so that it is not computed at every start."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psychocounsel.storage.files import read_json, write_json

_SETTLED_SECONDS = 2.0  # a file that changed later than that may change again within one tick of its clock


def content_id(root: Path, files: Sequence[Path], cache: str) -> str:
    """`sha256:...` of the names below `root` and the contents of `files`.

    Kept under `cache` by the files' paths, and computed anew when a size or time changes.

    Raises:
        OSError: if a file cannot be read.
    """
    stats = _stats(files)
    names = "\n".join(str(file.absolute()) for file in files)
    note = Path(cache) / "hashes" / f"{hashlib.sha256(names.encode()).hexdigest()[:32]}.json"
    known = _read_note(note)
    if known.get("stats") == stats:
        return known["id"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(root)).encode())
        _add(digest, file)
    found = f"sha256:{digest.hexdigest()}"
    newest = max((max(times) for _, *times in stats), default=0)
    if _stats(files) == stats and time.time() - newest / 1e9 > _SETTLED_SECONDS:
        _write_note(note, {"files": [str(file.absolute()) for file in files], "stats": stats, "id": found})
    return found


def code_id(*files: Path) -> str:
    """A hash of source files: what they computed is not served to other code."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _stats(files: Sequence[Path]) -> list[list[int]]:
    """Size, and times of change in content and inode (copies can keep the first)."""
    return [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for stat in map(os.stat, files)]


def _add(digest: Any, file: Path) -> None:
    with open(file, "rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)


def _read_note(note: Path) -> dict[str, Any]:
    try:
        return read_json(note) or {}
    except (OSError, json.JSONDecodeError):
        return {}


def _write_note(note: Path, value: dict[str, Any]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, value, durable=False)
    except OSError:
        pass  # a cache that cannot be written costs time, not the run
