"""Texts that are nearly the same: MinHash and banding find candidates, and the exact overlap decides (Broder 1997)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from psychocounsel.evaluation.audit.ngrams import shingles

_BANDS, _ROWS = 20, 4  # of an overlap of 0.8 one in 30,000 is missed, of 0.7 one in 250
_COMPARED = 8  # texts of a bucket that each text is compared with
Array = np.ndarray


@dataclass(frozen=True)
class Sketches:
    """The sets of word 3-grams of texts, and a signature of each; uint64[texts, bands]."""

    sets: list[Array]
    signatures: Array


def sketches(texts: Sequence[str]) -> Sketches:
    rng = np.random.default_rng(1997)
    factors = rng.integers(0, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shifts = rng.integers(0, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64)
    folding = rng.integers(0, 2**63, _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    sets = list(shingles(texts))
    signatures = np.empty((len(sets), _BANDS), np.uint64)
    for number, hashes in enumerate(sets):
        mixed = factors * hashes + shifts
        mixed ^= mixed >> np.uint64(32)
        least = (mixed * factors).min(1) if len(hashes) else np.zeros(len(factors), np.uint64)
        signatures[number] = (least.reshape(_BANDS, _ROWS) * folding).sum(1)
    return Sketches(sets, signatures)


def overlap(first: Array, second: Array) -> float:
    """The Jaccard index of two sets, given as sorted arrays: shared over all."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    whole = len(first) + len(second) - shared
    return shared / whole if whole else 0.0


def near_pairs(within: Sketches, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of texts, the smaller number first, whose overlap is `threshold` or more.

    Of a crowd of similar texts each is compared with some that stand near it, so not every pair of a crowd is found, and
    hardly a text of it is missed.
    """
    seen: set[tuple[int, int]] = set()
    for bucket in _buckets(within.signatures):
        for place, second in enumerate(bucket):
            for first in bucket[max(0, place - _COMPARED) : place]:
                if (first, second) not in seen:
                    seen.add((first, second))
                    if overlap(within.sets[first], within.sets[second]) >= threshold:
                        yield first, second


def near_matches(ours: Sketches, theirs: Sketches, threshold: float) -> set[int]:
    """Numbers of our texts that are nearly the same as one of theirs."""
    found: set[int] = set()
    count = len(ours.sets)
    for bucket in _buckets(np.concatenate([ours.signatures, theirs.signatures])):
        others = [number - count for number in bucket if number >= count][:_COMPARED]
        for number in (each for each in bucket if each < count and each not in found):
            if any(overlap(ours.sets[number], theirs.sets[other]) >= threshold for other in others):
                found.add(number)
    return found


def _buckets(signatures: Array) -> Iterator[list[int]]:
    """Texts that share a band, in order; those alone in it are left out."""
    for column in signatures.T:
        places: dict[int, list[int]] = defaultdict(list)
        for number, value in enumerate(column.tolist()):
            places[value].append(number)
        yield from (bucket for bucket in places.values() if len(bucket) > 1)
