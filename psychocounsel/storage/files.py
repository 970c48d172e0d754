"""Files that survive a crash, and the folders that ship with the package."""

import contextlib
import json
import os
import secrets
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent  # the folder `psychocounsel`


def shipped(name: str) -> Path:
    """Return the folder `conf`, `launch` or `slurm`: inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE / "share" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(
    path: Path, content: str | Iterable[bytes | memoryview], durable: bool = True, mode: int | None = None
) -> None:
    """Write text or pieces of bytes under a temporary name and rename it to `path`, so that no reader sees half a file.

    `durable=False` skips fsync: for heartbeats, which a crash may lose. `mode` sets the file's permissions.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # processes of other hosts may write it as well
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(temporary, flags, 0o666 if mode is None else mode), "wb") as file:
            file.writelines([content.encode()] if isinstance(content, str) else content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_directory(path.parent)


def write_json(path: Path, value: Any, durable: bool = True, mode: int | None = None) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n", durable, mode)


def read_json(path: Path) -> Any:
    """Return the parsed file, or None where it does not exist."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def shared_secret(path: Path) -> str:
    """A random key that all who ask for this file share, made by the first; its owner alone can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    write_atomically(mine, secrets.token_urlsafe(32), mode=0o600)
    with contextlib.suppress(FileExistsError):
        os.link(mine, path)
    mine.unlink()
    return path.read_text()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def recover_directory(path: Path) -> None:
    """Put back what `replace_directory` had moved aside when it was killed between its two renames."""
    if not path.exists() and _aside(path).is_dir():
        _aside(path).rename(path)


def replace_directory(new: Path, path: Path) -> None:
    """Put the finished directory `new` in place of `path`; what stood there goes only afterwards."""
    for file in new.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    old = _aside(path)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    fsync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def readable_size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def readable_time(seconds: float) -> str:
    """As 45 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    for unit, name, upto in ((60, "min", 100 * 60), (3600, "h", 48 * 3600), (86400, "d", float("inf"))):
        if seconds < upto:
            return f"{seconds / unit:.0f} {name}" if name == "min" else f"{seconds / unit:.1f} {name}"
    return "?"
