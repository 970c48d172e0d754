"""Crash-safe writing and reading of files, and the folders that ship with the package."""

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError

PACKAGE = Path(__file__).parent.parent  # the folder `psychocounsel`
SHIPPED_MODELS = PACKAGE.joinpath("model", "shipped")  # a folder for each model `builtin:NAME`


def shipped(name: str) -> Path:
    """Return the folder `conf`, `launch` or `slurm`: inside the wheel, or next to the package in a checkout."""
    inside = PACKAGE / "share" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def memory_folder() -> str | None:
    """Return a folder whose files are in memory; None, which stands for the usual temporary folder, where there is none."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def expanded(path: str | Path) -> Path:
    """Return a path that the user gave, with `~` and `~USER` replaced by their home folders.

    Raises:
        UserError: if there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = str(path).partition("/")[0].removeprefix("~")
        raise UserError(f"{path}: there is no user {user}; a folder of this name is written ./{path}") from error


def folder_of(path: str) -> Path:
    """Return the folder that a `builtin:` name or a path names, even if it does not exist."""
    return SHIPPED_MODELS / path.removeprefix("builtin:") if path.startswith("builtin:") else expanded(path)


def absolute(path: str | Path) -> str:
    """Return a path that the user gave as an absolute one; links are kept. Raises UserError like `expanded`."""
    return os.path.abspath(expanded(path))


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point(link: Path, target: str) -> None:
    """Replace `link` atomically and durably by a link to its neighbour `target`."""
    draft = temporary_name(link)
    draft.symlink_to(target)
    os.replace(draft, link)
    fsync_directory(link.parent)


def temporary_name(path: Path) -> Path:
    """Return a hidden, unique name in the folder of `path`. `remove_unfinished` recognises it.

    The name is random, because processes on several hosts may write the same file at once.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to. When the block ends without an error, the file is synced and renamed to `path`."""
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
    path: Path, content: str | Iterable[bytes | memoryview], durable: bool = True, mode: int | None = None
) -> None:
    """Write text or pieces of bytes under a temporary name and rename the file to `path`, so readers never see half a file.

    `durable=False` skips fsync, for heartbeats, which may be lost in a crash. `mode` sets the file's permissions [default: by
    the umask].
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
    """Write a text to `path` like `write_atomically`, but never replace an existing file.

    Raises:
        FileExistsError: if the file exists.
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


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_json(path: Path, value: Any, durable: bool = True, mode: int | None = None) -> None:
    write_atomically(path, json_text(value), durable, mode)


class DamagedFile(UserError):
    """A file of ours with other contents than we write."""


_MOST_DIGITS = 300  # products with longer numbers overflow
_TOO_LONG = f"holds a number of over {_MOST_DIGITS} digits"


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text of ours. Raises ValueError if it is damaged or holds a number of over 300 digits."""
    return json.loads(text, parse_int=_whole_number)


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(_TOO_LONG)
    return int(digits)


def read_json(path: Path) -> Any:
    """Return the mapping or list in a JSON file, or None if the file does not exist.

    Raises:
        DamagedFile: if the file holds anything else or is cut short.
    """
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        reason = "is empty" if path.stat().st_size == 0 else "is not valid JSON"
        reason = _TOO_LONG if str(error) == _TOO_LONG else reason
        raise DamagedFile(f"{path}: {reason}; restore it, or remove it if it can be made again") from error
    if not isinstance(content, dict | list):
        raise DamagedFile(
            f"{path}: holds neither a mapping nor a list; restore it, or remove it if it can be made again"
        )
    return content


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, or {} if the file does not exist.

    Raises:
        DamagedFile: if the file holds anything else or is cut short.
    """
    content = read_json(path)
    if isinstance(content, list):
        raise DamagedFile(f"{path}: holds a list instead of a mapping; restore it")
    return content or {}


def shared_secret(path: Path) -> str:
    """Return the random key in this file. The first caller makes the file, readable for its owner only; all callers share it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        write_new(path, secrets.token_urlsafe(32), 0o600)
    return path.read_text()


def await_file(path: Path, seconds: float = 90.0) -> None:
    """Wait until this node sees `path`, which another process has written. On NFS that can take a minute.

    Raises:
        FileNotFoundError: if the file is not visible after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() >= deadline:
            raise FileNotFoundError(errno.ENOENT, "written by another process, but this node cannot see it", str(path))
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # makes NFS refresh its view of the folder
        time.sleep(0.2)


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished files and folders with temporary names below `folder`, because they fill a full disk further."""
    for path in sorted(folder.rglob(".*.tmp"), reverse=True):
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def recover_directory(path: Path) -> None:
    """Restore the directory that `replace_directory` had moved aside if it was killed between its two renames."""
    if not path.exists() and _aside(path).is_dir():
        _aside(path).rename(path)


def fsync_files(folder: Path) -> None:
    """Sync all files below `folder` to disk, so that a crash of the machine does not lose their content."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())


def replace_directory(new: Path, path: Path) -> None:
    """Put the finished directory `new` in place of `path`. The old directory is deleted after the new one is in place."""
    fsync_files(new)
    old = _aside(path)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    fsync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def with_noun(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun, such as 1 node, 3 processes or 1,200 replies; `several`: a plural of another form."""
    plural = several or f"{one}{'es' if one.endswith('s') else 's'}"
    return f"{number:,} {one if number == 1 else plural}"


def readable_size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def readable_time(seconds: float) -> str:
    """Return a duration as text, such as 45 s, 12 min, 3.5 h or 2.1 d."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    for unit, name, upto in ((60, "min", 100 * 60), (3600, "h", 48 * 3600), (86400, "d", float("inf"))):
        if seconds < upto:
            return f"{seconds / unit:.0f} {name}" if name == "min" else f"{seconds / unit:.1f} {name}"
    return "?"
