"""Lines of a journal, `{"key": ..., "cost": ..., "about": ..., "answer": ...}` (cost and about may be missing), and
the index of their places.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.errors import UserError

# Lines

_BLOCK = 1 << 24  # bytes read at once
_HEAD = re.compile(
    rb'\{"key": "([0-9a-f]{64})", (?:"cost": ([0-9.e+-]+), )?(?:"about": "(?:[^"\\]|\\.)*", )?"answer": .*\}\Z',
    re.DOTALL,
)


@dataclass(frozen=True)
class Line:
    """Answer (JSON) with its key, its cost and the subject of its request."""

    key: str
    answer: Any
    about: str | None = None
    cost: float = 0.0

    @classmethod
    def of(cls, content: bytes) -> "Line":
        """Parse a line.

        Raises:
            ValueError: if it is not a line of a journal.
        """
        try:
            entry = json.loads(content)
            return cls(entry["key"], entry["answer"], entry.get("about"), entry.get("cost", 0.0))
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError("not a line of a journal") from error

    def written(self) -> bytes:
        """Return the line as bytes, with its newline; a zero cost and a missing `about` are omitted."""
        entry: dict[str, Any] = {"key": self.key} | ({"cost": self.cost} if self.cost else {})
        entry |= {} if self.about is None else {"about": self.about}
        return json.dumps(entry | {"answer": self.answer}).encode() + b"\n"


def damaged(path: Path, number: int) -> UserError:
    """Return the error for line `number` of a journal's file."""
    return UserError(f"{path}: line {number} is damaged: remove that line, and its request is sent again")


def lines_of(path: Path) -> Iterator[tuple[list[str], list[int], float]]:
    """Yield, block by block, the keys of a file's lines, the byte offsets of the lines, and their total cost.

    An incomplete last line is skipped, because its writer was killed. Answers are not parsed.

    Raises:
        UserError: for a line that does not begin and end like a journal line.
    """
    number, start, rest = 0, 0, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            keys, offsets, cost = list[str](), list[int](), 0.0
            for line in lines:
                number += 1
                if (head := _HEAD.match(line)) is None:
                    raise damaged(path, number)
                keys.append(head[1].decode())
                offsets.append(start)
                cost += float(head[2] or 0)
                start += len(line) + 1
            yield keys, offsets, cost


# Index of the places of answers, 16 bytes each

_OFFSET_BITS = 44  # files of up to 16 TiB; the other 20 bits number up to a million files
_FEWEST_NEW = 1 << 14  # new places are merged into the sorted arrays only above this number


class Places:
    """Index of (file, offset) by key.

    Only a key's first 8 bytes are stored, so `find` may also return places of other keys; the caller compares the whole
    key in the line. Sorted arrays hold the places known at the start. New places are collected in a dictionary and
    merged from time to time.
    """

    def __init__(self) -> None:
        self._heads = np.empty(0, np.uint64)
        self._where = np.empty(0, np.uint64)
        self._parts: list[tuple[Any, Any]] = []
        self._new: dict[int, int] = {}

    def extend(self, keys: Sequence[str], file: int, offsets: Sequence[int]) -> None:
        """Add many places; `find` sees them after `settle`."""
        heads = np.frombuffer(bytes.fromhex("".join(key[:16] for key in keys)), ">u8").astype(np.uint64)
        where = np.array(offsets, np.uint64) | np.uint64(file << _OFFSET_BITS)
        self._parts.append((heads, where))

    def settle(self) -> None:
        """Sort the added places into the arrays; the earliest place of a key comes first."""
        parts, self._parts = [(self._heads, self._where), *self._parts], []
        self._heads = self._where = np.empty(0, np.uint64)
        heads = np.concatenate([part[0] for part in parts])
        where = np.concatenate([part[1] for part in parts])
        del parts
        order = np.argsort(heads, kind="stable")
        self._heads = heads[order]
        del heads
        self._where = where[order]

    def add(self, key: str, file: int, offset: int) -> None:
        """Add one place; `find` sees it immediately."""
        head, place = int(key[:16], 16), offset | file << _OFFSET_BITS
        if head in self._new:  # extremely rare; the sorted arrays can hold equal heads
            self._merge()
        self._new[head] = place
        if len(self._new) > max(_FEWEST_NEW, len(self._heads) >> 7):
            self._merge()

    def find(self, key: str) -> list[tuple[int, int]]:
        """Return the places that may belong to this key."""
        head = int(key[:16], 16)
        first = int(np.searchsorted(self._heads, np.uint64(head)))
        places = []
        while first < len(self._heads) and int(self._heads[first]) == head:
            places.append(int(self._where[first]))
            first += 1
        places += [self._new[head]] if head in self._new else []
        return [(place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)) for place in places]

    def _merge(self) -> None:
        heads = np.array(sorted(self._new), np.uint64)
        where = np.array([self._new[int(head)] for head in heads], np.uint64)
        at = np.searchsorted(self._heads, heads, side="right")
        self._heads, self._where = np.insert(self._heads, at, heads), np.insert(self._where, at, where)
        self._new = {}
