"""Journal of answers, keyed by request hash: an answered request is not sent, or paid for, again.

Each process appends to a file of its own in the folder, one line per answer, and reads all files at its start. Any
number of processes can therefore share a folder on any file system. Memory holds the place of each answer, not the
answers.
"""

import hashlib
import json
import os
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.remote.journal_lines import Line, Places, damaged, lines_of
from psychocounsel.storage.files import fsync_directory, write_atomically

_SUFFIX = ".jsonl"
_OPEN_FILES = 64


def request_key(route: str, payload: Any) -> str:
    """Return the sha256 of a request; the order of JSON keys does not matter."""
    canonical = json.dumps([route, payload], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass
class Bought:
    """Number of answers, and their total cost."""

    calls: int = 0
    cost: float = 0.0

    def add(self, calls: int, cost: float) -> None:
        self.calls, self.cost = self.calls + calls, self.cost + cost


class Journal:
    """Journal of answers in `folder`, keyed by request hash (sha256, hexadecimal). It can be used from any thread.

    Use one folder per service, because keys do not identify servers. `total` counts all answers; `bought` counts them
    by process label. `label`, which must not contain a dot, is the first part of the name of this process's file.

    Raises:
        UserError: at construction for a damaged line, unless it is an unfinished last line; on reading, for damage
            inside a line.
    """

    def __init__(self, folder: Path, label: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.label = folder, label
        self.total, self.bought = Bought(), defaultdict[str, Bought](Bought)
        self._paths: list[Path] = []
        self._places = Places()
        self._lock = threading.Lock()
        self._readers: dict[int, int] = {}
        self._file: int | None = None  # this process's own file, the last of the paths
        self._end = 0
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            self._take(path)
        self._places.settle()

    def get(self, key: str) -> Line | None:
        """Read the line of this key from disk; None if the journal does not hold the key."""
        with self._lock:
            places = self._places.find(key)
        for file, offset in places:
            line = self._read(file, offset)
            if line.key == key:
                return line
        return None

    def add(self, key: str, answer: Any, about: str | None = None, cost: float = 0.0) -> None:
        """Store an answer (JSON) to a request about `about`; it is on disk when this returns."""
        self.add_all([Line(key, answer, about, cost)])

    def add_all(self, lines: Sequence[Line]) -> None:
        """Store several answers with one write and one fsync; they are on disk when this returns.

        Raises:
            OSError: if the answers cannot be written; this process then finds none of them in the journal.
        """
        written = [line.written() for line in lines]
        with self._lock:
            if self._file is None:
                self._file, self._end = self._new_file(), 0
            content = memoryview(b"".join(written))
            try:
                while content:
                    content = content[os.write(self._file, content) :]
                os.fsync(self._file)
            except OSError:
                self._file = None  # later lines must not be appended to half a line
                raise
            for line, text in zip(lines, written, strict=True):
                self._places.add(line.key, len(self._paths) - 1, self._end)
                self._end += len(text)
                self._count(self._paths[-1], 1, line.cost)

    def close(self) -> None:
        """Close the files; the journal may be used again."""
        with self._lock:
            for descriptor in (*self._readers.values(), *([self._file] if self._file is not None else [])):
                os.close(descriptor)
            self._readers, self._file = {}, None

    # -- files

    def _take(self, path: Path) -> None:
        """Register the places of a file's answers."""
        number = len(self._paths)
        self._paths.append(path)
        for keys, offsets, cost in lines_of(path):
            self._places.extend(keys, number, offsets)
            self._count(path, len(offsets), cost)

    def _count(self, path: Path, calls: int, cost: float) -> None:
        self.total.add(calls, cost)
        self.bought[path.name.partition(".")[0]].add(calls, cost)

    def _new_file(self) -> int:
        name = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        path = self.folder / (f"{self.label}.{name}" if self.label else name)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        fsync_directory(self.folder)
        self._paths.append(path)
        return file

    def _read(self, file: int, offset: int) -> Line:
        with self._lock:
            if file not in self._readers:
                if len(self._readers) >= _OPEN_FILES:
                    os.close(self._readers.pop(next(iter(self._readers))))
                self._readers[file] = os.open(self._paths[file], os.O_RDONLY)
            content, size = b"", 4096
            while b"\n" not in content:
                piece = os.pread(self._readers[file], size, offset + len(content))
                if not piece:
                    break
                content, size = content + piece, 1 << 20
        try:
            return Line.of(content.partition(b"\n")[0])
        except ValueError as error:
            raise UserError(
                f"{self._paths[file]}: the line at byte {offset} is damaged: remove that line, and its request is sent again"
            ) from error


def forget(folder: Path, is_removed: Callable[[str], bool]) -> int:
    """Delete the answers for whose `about` `is_removed` is true; return their number. No process may write meanwhile.

    Unfinished last lines are deleted as well, because they may hold part of such an answer.

    Raises:
        UserError: for a damaged line.
    """
    count = 0
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        gone, size = set[int](), 0
        for number, line in _whole_lines(path):
            gone |= {number} if is_removed(_about(path, number, line)) else set()
            size += len(line)
        if gone or size < path.stat().st_size:
            write_atomically(path, (line for number, line in _whole_lines(path) if number not in gone))
        count += len(gone)
    return count


def _about(path: Path, number: int, line: bytes) -> str:
    try:
        return Line.of(line).about or ""
    except ValueError as error:
        raise damaged(path, number) from error


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the numbered lines of a file, from 1, without an incomplete last line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield number, line
