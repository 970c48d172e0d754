"""Near-duplicate texts: MinHash with banding finds candidates, and the exact overlap decides (Broder 1997).

A sketch is a text's set of hashed word 3-grams and its MinHash signature, which consists of bands. `sketches` keeps the
sketches of texts in memory; `SketchFolder` keeps them on disk, for millions of texts. `near_pairs` and `near_matches`
search either kind and hold one band of all texts in memory at a time (16 bytes per text).
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

Array = np.ndarray


# Hashed word 3-grams


TOKEN = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
# Chinese, Japanese and Korean: each character counts as a word, because spaces separate no words (in Korean, few).
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0002fa1f"
_TOKEN_OR_CHARACTER = re.compile(rf"[{CJK}]|(?:(?![{CJK}])\w)+(?:['\u2019](?:(?![{CJK}])\w)+)*|[^\w\s]")
_ANY_CJK = re.compile(f"[{CJK}]")
_MIX, _SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


def shingles(texts: Sequence[str]) -> Iterator[Array]:
    """Yield the set of hashed word 3-grams of each text, sorted uint64; a shorter text is one sequence."""
    for text in texts:
        token = _TOKEN_OR_CHARACTER if _ANY_CJK.search(text) else TOKEN
        codes = np.array([zlib.crc32(word.encode()) + 1 for word in token.findall(text.lower())], np.uint64)
        yield np.unique(rolled(codes, min(3, max(len(codes), 1))))


def rolled(codes: Array, length: int) -> Array:
    """Return a hash of each sequence of `length` codes, uint64; it also depends on the length."""
    count = max(len(codes) - length + 1, 0)
    mixed = np.full(count, length, np.uint64)
    for place in range(length):
        mixed = mixed * _MIX + codes[place : place + count]
    mixed ^= mixed >> np.uint64(29)
    return mixed * _SPREAD


# Sketches of texts, and the search for near duplicates

_BANDS, _ROWS, _SEED = 20, 4, 1997  # pairs missed: 1 in 38,000 at overlap 0.8, 1 in 240 at 0.7, 1 in 16 at 0.6
_COMPARED = 8  # in each band, texts of equal value that a text is compared with
_TEXTS = 2000  # texts sketched at a time


@dataclass(frozen=True)
class Sketches:
    """Sets of word 3-grams of texts, with a MinHash signature of each.

    `hashes`: uint64, the sorted sets one after another, in memory or mapped from a file. `ends`: int64[texts], the end
    of each set. `signatures`: uint64[texts, bands].
    """

    hashes: Array
    ends: Array
    signatures: Array

    def __len__(self) -> int:
        return len(self.ends)

    def set_of(self, number: int) -> Array:
        """Return the hashed 3-grams of a text, sorted uint64."""
        return self.hashes[self.ends[number - 1] if number else 0 : self.ends[number]]


def sketches(texts: Sequence[str]) -> Sketches:
    """Return the sketches of `texts`, in memory."""
    parts = [_sketch(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)] or [_sketch([])]
    hashes, sizes, signatures = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Sketches(hashes, np.cumsum(sizes), signatures)


class SketchFolder:
    """Sketches in files of a folder: 8 bytes per distinct 3-gram and 168 bytes per text (8 of these also in memory)."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / name for name in ("hashes.bin", "sizes.bin", "signatures.bin")]
        self._files: list[BinaryIO] = [open(path, "wb") for path in self._paths]

    def add(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), _TEXTS):
            for file, array in zip(self._files, _sketch(texts[start : start + _TEXTS]), strict=True):
                file.write(array.tobytes())

    def close(self) -> Sketches:
        """Return the sketches of all added texts, in order, mapped from the files."""
        for file in self._files:
            file.close()
        hashes, sizes, signatures = (
            np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
            for path, dtype in zip(self._paths, (np.uint64, np.int64, np.uint64), strict=True)
        )
        return Sketches(hashes, np.cumsum(sizes), signatures.reshape(-1, _BANDS))


def _sketch(texts: Sequence[str]) -> tuple[Array, Array, Array]:
    """Return the hashes of all sets one after another (uint64), their sizes (int64[texts]) and uint64[texts, bands]."""
    from rensa import RMinHash

    sets = list(shingles(texts))
    sizes = np.array([len(members) for members in sets], np.int64)
    hashes = np.concatenate([np.empty(0, np.uint64), *sets])
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    rows = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts, _BANDS * _ROWS, _SEED).to_rows()
    least = np.array(rows, np.uint64).reshape(len(sets), _BANDS, _ROWS)
    folding = np.random.default_rng(_SEED).integers(0, 2**63, _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return hashes, sizes, (least * folding).sum(2, dtype=np.uint64)


def overlap(first: Array, second: Array) -> float:
    """Return the Jaccard index of two sets, given as sorted arrays: size of the intersection over size of the union."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    whole = len(first) + len(second) - shared
    return shared / whole if whole else 0.0


def near_pairs(within: Sketches, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of texts with an overlap of at least `threshold`, and this overlap, in order, the smaller index first.

    In a large cluster of similar texts, each text is compared with only a few neighbours. Therefore not every pair of
    the cluster is found, but hardly any text of it is missed.
    """
    count = len(within)
    pairs = np.empty(0, np.int64)
    for band in range(_BANDS):
        values = within.signatures[:, band]
        order = np.argsort(values, kind="stable")
        values = values[order]
        for step in range(1, min(_COMPARED, count - 1) + 1):
            same = values[step:] == values[:-step]
            pairs = np.append(pairs, order[:-step][same] * count + order[step:][same])
        pairs = np.unique(pairs)
    for pair in pairs.tolist():
        first, second = divmod(pair, count)
        if (size := overlap(within.set_of(first), within.set_of(second))) >= threshold:
            yield first, second, size


def near_matches(ours: Sketches, theirs: Sketches, threshold: float) -> set[int]:
    """Return the indices of the texts in `ours` whose overlap with a text in `theirs` is at least `threshold`."""
    count, near = len(theirs), set[int]()
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
        if number not in near and overlap(ours.set_of(number), theirs.set_of(other)) >= threshold:
            near.add(number)
    return near
