"""Content hashes of files. They are cached on disk, because reading large files at every start would take long."""

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from psychocounsel.storage.files import DamagedFile, read_mapping, write_json
from psychocounsel.storage.modes import make_shared, restricted
from psychocounsel.storage.trust import open_trusted

_BLOCK = 1 << 22
_SETTLED_SECONDS = 2.0  # a younger file may change again without a new modification time


class FileMark(TypedDict):
    """Size and sha256 of a file, by which later damage is noticed."""

    bytes: int
    sha256: str


def write_marked(path: Path, content: Iterable[bytes | memoryview]) -> FileMark:
    """Write pieces of bytes to `path` and sync the file to disk; returns its mark, computed while writing.

    Raises:
        OSError: if the file cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "wb", buffering=0) as file:
        for piece in content:
            whole = memoryview(piece)
            for start in range(0, len(whole), _BLOCK):
                block = whole[start : start + _BLOCK]
                digest.update(block)
                size += len(block)
                while block:
                    block = block[file.write(block) :]
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def mark_of(path: Path) -> FileMark:
    """Return the mark of a file as it is now.

    Raises:
        OSError: if the file cannot be read.
    """
    digest = hashlib.sha256()
    _add(digest, path)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def content_id(root: Path, files: Sequence[Path], cache: str) -> str:
    """Return `sha256:...`, a hash of the contents of `files` and of their names relative to `root`.

    The hash is kept under `cache` by the files' paths. It is computed again when a size or time changes.

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
    content_hash = f"sha256:{digest.hexdigest()}"
    newest = max((max(times) for _, *times in stats), default=0)
    if _stats(files) == stats and time.time() - newest / 1e9 > _SETTLED_SECONDS:
        _write_note(note, {"files": [str(file.absolute()) for file in files], "stats": stats, "id": content_hash})
    return content_hash


def code_id(*files: Path) -> str:
    """Return a hash of source files [16 hexadecimal digits]. In a cache key, it separates results of different code."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _stats(files: Sequence[Path]) -> list[list[int]]:
    """Return size, mtime and ctime of each file. The ctime is needed because copying can preserve the mtime."""
    return [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for stat in map(os.stat, files)]


def _add(digest: Any, file: Path) -> None:
    with open(file, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)


def _read_note(note: Path) -> dict[str, Any]:
    try:
        open_trusted(note).close()
        return read_mapping(note)
    except (OSError, DamagedFile):
        return {}


def _write_note(note: Path, value: dict[str, Any]) -> None:
    try:
        make_shared(note.parent)
        with restricted(0o022):  # readers trust no note that others may write
            write_json(note, value, durable=False)
    except OSError:
        pass  # without the note the hash is only computed again
