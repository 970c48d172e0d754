"""Where the answers of a journal lie: 16 bytes an answer, for any number of answers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_OFFSET_BITS = 44  # files of up to 16 TiB; the other 20 bits number up to a million files
_FEWEST_NEW = 1 << 14  # new places that are kept apart before they are sorted in


class Places:
    """(file, offset) by key. A key's first 8 bytes are kept: `find` may give places of other keys, which lines tell apart.

    Sorted arrays hold the places that there were at the start; new ones wait in a dictionary until they are worth sorting in.
    """

    def __init__(self) -> None:
        self._heads = np.empty(0, np.uint64)
        self._where = np.empty(0, np.uint64)
        self._parts: list[tuple[Any, Any]] = []
        self._new: dict[int, int] = {}

    def extend(self, keys: Sequence[str], file: int, offsets: Sequence[int]) -> None:
        """Add many; `find` knows them after `settle`."""
        heads = np.frombuffer(bytes.fromhex("".join(key[:16] for key in keys)), ">u8").astype(np.uint64)
        where = np.array(offsets, np.uint64) | np.uint64(file << _OFFSET_BITS)
        self._parts.append((heads, where))

    def settle(self) -> None:
        """Sort in what was added. The earliest place of a key comes first."""
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
        """Add one, which `find` knows at once."""
        head, place = int(key[:16], 16), offset | file << _OFFSET_BITS
        if head in self._new:  # as good as never: then it is sorted in, where any number may be alike
            self._merge()
        self._new[head] = place
        if len(self._new) > max(_FEWEST_NEW, len(self._heads) >> 7):
            self._merge()

    def find(self, key: str) -> Iterator[tuple[int, int]]:
        """The places that may be this key's."""
        head = int(key[:16], 16)
        first = int(np.searchsorted(self._heads, np.uint64(head)))
        found = []
        while first < len(self._heads) and int(self._heads[first]) == head:
            found.append(int(self._where[first]))
            first += 1
        found += [self._new[head]] if head in self._new else []
        return iter([(place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)) for place in found])

    @property
    def bytes(self) -> int:
        """The bytes that the sorted arrays take."""
        return self._heads.nbytes + self._where.nbytes

    def _merge(self) -> None:
        heads = np.array(sorted(self._new), np.uint64)
        where = np.array([self._new[int(head)] for head in heads], np.uint64)
        at = np.searchsorted(self._heads, heads, side="right")
        self._heads, self._where = np.insert(self._heads, at, heads), np.insert(self._where, at, where)
        self._new = {}
