"""Files that survive a crash, and the folders that ship with the package."""

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError

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


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, which `remove_unfinished` knows; processes of other hosts may write the same file."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under. It takes the place of `path` when the block ends without an error, synced."""
    temporary = temporary_name(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_atomically(
    path: Path,
    content: str | Iterable[bytes | memoryview],
    durable: bool = True,
    mode: int | None = None,
    owned: bool = False,
) -> None:
    """Write text or pieces of bytes under a temporary name and rename it to `path`, so that no reader sees half a file.

    `durable=False` skips fsync: for heartbeats, which a crash may lose. `mode` are the file's permissions; by
    default the umask decides.
    """
    temporary = temporary_name(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(temporary, flags, 0o666 if mode is None else mode), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
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


def write_new(path: Path, content: str, mode: int) -> None:
    """Write a text to `path` as `write_atomically` does, but never over a file that is there.

    Raises:
        FileExistsError: if there is one.
    """
    mine = temporary_name(path)
    write_atomically(mine, content, mode=mode)
    try:
        os.link(mine, path)
    finally:
        mine.unlink()
    fsync_directory(path.parent)


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def write_json(path: Path, value: Any, durable: bool = True, mode: int | None = None) -> None:
    write_atomically(path, json_text(value), durable, mode)


class DamagedFile(UserError):
    """A file of ours that does not hold what we write into it."""


def read_json(path: Path) -> Any:
    """Return the mapping or list in the file, or None where it does not exist.

    Raises:
        DamagedFile: if it holds something else, or is cut short.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        reason = "is empty" if path.stat().st_size == 0 else "is not valid JSON"
        raise DamagedFile(f"{path}: {reason}; restore it, or remove it where it can be made again") from error
    if not isinstance(content, dict | list):
        raise DamagedFile(f"{path}: holds no mapping; restore it, or remove it where it can be made again")
    return content


def read_mapping(path: Path) -> dict[str, Any]:
    """As `read_json`, of a file that holds a mapping; {} where it does not exist."""
    content = read_json(path)
    if isinstance(content, list):
        raise DamagedFile(f"{path}: holds a list in the place of a mapping; restore it")
    return content or {}


def shared_secret(path: Path) -> str:
    """A random key that all who ask for this file share, made by the first; its owner alone can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = temporary_name(path)
    write_atomically(mine, secrets.token_urlsafe(32), mode=0o600)
    with contextlib.suppress(FileExistsError):
        os.link(mine, path)
    mine.unlink()
    return path.read_text()


def await_file(path: Path, seconds: float = 90.0) -> None:
    """Return when `path`, which another process has written, is seen here: NFS may deny it for a minute to other nodes.

    Raises:
        FileNotFoundError: if it is not seen after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() >= deadline:
            raise FileNotFoundError(errno.ENOENT, "another process has written it, and it is not seen here", str(path))
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # makes NFS look at the folder anew
        time.sleep(0.2)


def remove_unfinished(folder: Path) -> None:
    """Remove what was being written below `folder` under temporary names, when the disk was full: it takes up space."""
    for path in sorted(folder.rglob(".*.tmp"), reverse=True):
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


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
