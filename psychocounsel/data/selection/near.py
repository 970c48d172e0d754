"""Texts that are nearly the same: MinHash and banding find candidates, and the exact overlap decides (Broder 1997).

`sketches` holds everything in memory; `SketchFolder` keeps the same on disk, for millions of texts. Both are searched by the same
functions, which hold one band of all texts at a time (16 bytes a text).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from psychocounsel.data.selection.shingles import shingles

_BANDS, _ROWS, _SEED = 20, 4, 1997  # of an overlap of 0.8 one in 30,000 is missed, of 0.7 one in 250, of 0.6 one in 16
_COMPARED = 8  # texts of a bucket that each text is compared with
_TEXTS = 2000  # sketched at a time
Array = np.ndarray


@dataclass(frozen=True)
class Sketches:
    """The sets of word 3-grams of texts, and a signature of each.

    `hashes`: the sets one after another, uint64 in order, in memory or mapped from a file. `ends`: where each ends,
    int64[texts]. `signatures`: uint64[texts, bands].
    """

    hashes: Array
    ends: Array
    signatures: Array

    def __len__(self) -> int:
        return len(self.ends)

    def set_of(self, number: int) -> Array:
        """The hashed 3-grams of a text, uint64 in order."""
        return self.hashes[self.ends[number - 1] if number else 0 : self.ends[number]]


def sketches(texts: Sequence[str]) -> Sketches:
    """The sketches of `texts`, in memory."""
    parts = [_sketch(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)] or [_sketch([])]
    hashes, sizes, signatures = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Sketches(hashes, np.cumsum(sizes), signatures)


class SketchFolder:
    """Sketches in files of a folder: about 20 bytes a word of text and 160 a text, none of which stay in memory."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / name for name in ("hashes.bin", "sizes.bin", "signatures.bin")]
        self._files: list[BinaryIO] = [open(path, "wb") for path in self._paths]

    def add(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), _TEXTS):
            for file, array in zip(self._files, _sketch(texts[start : start + _TEXTS]), strict=True):
                file.write(array.tobytes())

    def close(self) -> Sketches:
        """All that were added, in order, mapped from the files."""
        for file in self._files:
            file.close()
        hashes, sizes, signatures = (
            np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
            for path, dtype in zip(self._paths, (np.uint64, np.int64, np.uint64), strict=True)
        )
        return Sketches(hashes, np.cumsum(sizes), signatures.reshape(-1, _BANDS))


def _sketch(texts: Sequence[str]) -> tuple[Array, Array, Array]:
    """The hashes of all sets one after another, uint64; the size of each, int64[texts]; uint64[texts, bands]."""
    from rensa import RMinHash

    sets = list(shingles(texts))
    sizes = np.array([len(each) for each in sets], np.int64)
    hashes = np.concatenate([np.empty(0, np.uint64), *sets])
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    rows = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts, _BANDS * _ROWS, _SEED).to_rows()
    least = np.array(rows, np.uint64).reshape(len(sets), _BANDS, _ROWS)
    folding = np.random.default_rng(_SEED).integers(0, 2**63, _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return hashes, sizes, (least * folding).sum(2, dtype=np.uint64)


def overlap(first: Array, second: Array) -> float:
    """The Jaccard index of two sets, given as sorted arrays: shared over all."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    whole = len(first) + len(second) - shared
    return shared / whole if whole else 0.0


def near_pairs(within: Sketches, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of texts, the smaller number first, whose overlap is `threshold` or more, with their overlap; in order.

    Of a crowd of similar texts each is compared with some that stand near it, so not every pair of a crowd is found, and
    hardly a text of it is missed.
    """
    count = len(within)
    found = np.empty(0, np.int64)
    for band in range(_BANDS):
        values = within.signatures[:, band]
        order = np.argsort(values, kind="stable")
        values = values[order]
        for step in range(1, min(_COMPARED, count - 1) + 1):
            same = values[step:] == values[:-step]
            found = np.append(found, order[:-step][same] * count + order[step:][same])
        found = np.unique(found)
    for pair in found.tolist():
        first, second = divmod(pair, count)
        if (size := overlap(within.set_of(first), within.set_of(second))) >= threshold:
            yield first, second, size


def near_matches(ours: Sketches, theirs: Sketches, threshold: float) -> set[int]:
    """Numbers of our texts that are nearly the same as one of theirs."""
    count, found = len(theirs), set[int]()
    candidates = np.empty(0, np.int64)
    for band in range(_BANDS):
        order = np.argsort(theirs.signatures[:, band], kind="stable")
        values, wanted = theirs.signatures[:, band][order], ours.signatures[:, band]
        starts = np.searchsorted(values, wanted)
        for step in range(min(_COMPARED, count)):
            places = np.minimum(starts + step, count - 1)
            same = (starts + step < count) & (values[places] == wanted)
            candidates = np.append(candidates, np.flatnonzero(same) * count + order[places[same]])
        candidates = np.unique(candidates)
    for pair in candidates.tolist():
        number, other = divmod(pair, count)
        if number not in found and overlap(ours.set_of(number), theirs.set_of(other)) >= threshold:
            found.add(number)
    return found
