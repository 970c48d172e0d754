"""Index of a journal: the places of any number of answers, in 16 bytes each."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

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

    def find(self, key: str) -> Iterator[tuple[int, int]]:
        """Return the places that may belong to this key."""
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
        """Size of the sorted arrays [bytes]."""
        return self._heads.nbytes + self._where.nbytes

    def _merge(self) -> None:
        heads = np.array(sorted(self._new), np.uint64)
        where = np.array([self._new[int(head)] for head in heads], np.uint64)
        at = np.searchsorted(self._heads, heads, side="right")
        self._heads, self._where = np.insert(self._heads, at, heads), np.insert(self._where, at, where)
        self._new = {}
