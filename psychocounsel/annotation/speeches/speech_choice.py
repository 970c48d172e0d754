"""Drops duplicate speeches and splits the rest into train and test, from ids and MinHash sketches without the texts."""

import hashlib
from dataclasses import dataclass

import numpy as np

from psychocounsel.data.selection.near import Sketches, near_pairs

Array = np.ndarray
STAYS, REMOVED, SAME, NEAR, LIMIT = range(5)
REASONS = {REMOVED: "removed", SAME: "same text", NEAR: "near duplicate", LIMIT: "limit"}


@dataclass(frozen=True)
class Choice:
    """Of each speech, in the order of sources: its standing, the number of the speech it doubles (else its own), its split."""

    standing: Array  # int8[speeches]: STAYS, or a key of REASONS
    first: Array  # int64[speeches]
    is_test: Array  # bool[speeches]


@dataclass(frozen=True)
class ChoiceRules:
    """`near`, `split_near`: overlaps of word 3-grams. `limit`: speeches at most. `removed`: hashes of ids (tombstones)."""

    near: float
    split_near: float
    limit: int | None
    test_fraction: float
    seed: int
    removed: frozenset[str] = frozenset()


def choose(ids: Array, sketches: Sketches, rules: ChoiceRules) -> Choice:
    """Decide for speeches given by their ids (uint64[speeches], in the order of sources) and sketches.

    Of speeches with the same id the first stays; of those connected by overlaps of `near` or more likewise. A limit keeps the
    lowest ids, which are as good as random. Speeches connected by overlaps of `split_near` or more, dropped ones between them
    included, stand on one side of the split. A component is a test one if the hash of its lowest id and the seed falls into
    the first `test_fraction`, so that adding speeches leaves the others where they are; of several components there is always
    a test one.
    """
    count = len(ids)
    standing, first = np.zeros(count, np.int8), np.arange(count)
    _, places, inverse = np.unique(ids, return_index=True, return_inverse=True)
    first = places[inverse]
    standing[first != np.arange(count)] = SAME

    pairs = list(near_pairs(sketches, rules.split_near)) if count > 1 else []
    sides = np.array([(one, other) for one, other, _ in pairs], np.int64).reshape(-1, 2)
    overlaps = np.array([size for *_, size in pairs])
    alive = (standing == STAYS)[sides].all(1)
    leader = connected(count, sides[alive & (overlaps >= rules.near)])
    near = (leader != np.arange(count)) & (standing == STAYS)
    standing[near] = NEAR
    first = leader[first]  # of a text that stands there twice, what its first is near to
    if rules.limit is not None:
        kept = np.flatnonzero(standing == STAYS)
        standing[kept[np.argsort(ids[kept])[rules.limit :]]] = LIMIT
    if rules.removed:  # at last: neither a double nor a speech beyond the limit takes its place
        gone = np.array([_tombstone(number) in rules.removed for number in ids.tolist()])
        standing[gone | gone[first]] = REMOVED
    together = connected(count, np.concatenate([sides, np.column_stack([np.arange(count), first])]))
    return Choice(standing, first, _test(ids, together, standing == STAYS, rules))


def connected(count: int, pairs: Array) -> Array:
    """The lowest number of each number's component, int64[count]; `pairs` int64[n, 2] are connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
    labels = connected_components(graph, directed=False)[1]
    lowest = np.full(count, count)
    np.minimum.at(lowest, labels, np.arange(count))
    return lowest[labels]


def _test(ids: Array, together: Array, stays: Array, rules: ChoiceRules) -> Array:
    """Whether each speech is of the test split, bool[speeches]."""
    lowest = np.full(len(ids), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(lowest, together[stays], ids[stays])
    components = np.unique(together[stays])
    shares = {component: share_of(int(lowest[component]), f"split:{rules.seed}") for component in components.tolist()}
    chosen = {component for component, share in shares.items() if share < rules.test_fraction}
    if not chosen and rules.test_fraction and len(shares) > 1:
        chosen = {min(shares, key=shares.__getitem__)}
    return np.isin(together, list(chosen)) & stays


def share_of(number: int, purpose: str) -> float:
    """A number from 0 to below 1 that an id and a purpose decide."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{number:016x}".encode()).digest()[:8], "big") / 2**64


def _tombstone(number: int) -> str:
    """What stands in removed.txt for an id."""
    return hashlib.sha256(f"{number:016x}".encode()).hexdigest()


def number_of(speech: str) -> int:
    """The id of a speech as the integer that it writes."""
    return int(speech, 16)
