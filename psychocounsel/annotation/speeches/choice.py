"""Drops duplicate speeches and splits the rest into train and test, using only ids and MinHash sketches of the texts."""

import hashlib
from dataclasses import dataclass

import numpy as np

from psychocounsel.data.near_duplicates import Sketches, near_pairs

Array = np.ndarray
KEPT, REMOVED, SAME, NEAR, LIMIT = range(5)
REASONS = {REMOVED: "removed", SAME: "same text", NEAR: "near duplicate", LIMIT: "limit"}


@dataclass(frozen=True)
class Choice:
    """The decision for each speech, in the order of sources.

    Attributes:
        decision: KEPT, or the reason for dropping it (a key of REASONS).
        first: the index of the speech that it duplicates; its own index if it is not a duplicate.
        is_test: True if it belongs to the test split.
    """

    decision: Array  # int8[speeches]: KEPT, or a key of REASONS
    first: Array  # int64[speeches]
    is_test: Array  # bool[speeches]


@dataclass(frozen=True)
class ChoiceRules:
    """Rules for keeping and splitting speeches.

    Attributes:
        near, split_near: thresholds for the overlap of word 3-grams (see `choose`).
        limit: maximum number of speeches.
        removed: hashes of removed ids (tombstones).
    """

    near: float
    split_near: float
    limit: int | None
    test_fraction: float
    seed: int
    removed: frozenset[str] = frozenset()


def choose(ids: Array, sketches: Sketches, rules: ChoiceRules, talks: Array | None = None) -> Choice:
    """Decide which speeches stay and which go to the test split, given ids (uint64[speeches], in source order) and sketches.

    Among speeches with the same id, the first stays; so does the first of a group connected by overlaps of at least `near`. A
    limit keeps the speeches with the lowest ids, which is a random choice because ids are hashes.

    Speeches connected by overlaps of at least `split_near`, also through dropped ones, form a component and go to the same
    split. A component goes to the test split if a hash of its lowest id and the seed, as a number in [0, 1), is below
    `test_fraction`. Therefore adding speeches does not move speeches of other components. If `test_fraction` is not 0
    and there are several components, at least one of them is in the test split.

    `talks`: for each speech the index of the first one of its conversation, int64[speeches]; None: all are alone. Speeches of
    one conversation go to the same split, and are no near duplicates of each other.
    """
    count = len(ids)
    decision, first = np.zeros(count, np.int8), np.arange(count)
    talks = np.arange(count) if talks is None else talks
    _, places, inverse = np.unique(ids, return_index=True, return_inverse=True)
    first = places[inverse]
    decision[first != np.arange(count)] = SAME

    pairs = list(near_pairs(sketches, rules.split_near)) if count > 1 else []
    sides = np.array([(one, other) for one, other, _ in pairs], np.int64).reshape(-1, 2)
    overlaps = np.array([size for *_, size in pairs])
    alive = (decision == KEPT)[sides].all(1) & (talks[sides[:, 0]] != talks[sides[:, 1]])
    leader = connected(count, sides[alive & (overlaps >= rules.near)])
    near = (leader != np.arange(count)) & (decision == KEPT)
    decision[near] = NEAR
    first = leader[first]  # an exact duplicate points to the speech that its first copy is near to
    if rules.limit is not None:
        kept = np.flatnonzero(decision == KEPT)
        decision[kept[np.argsort(ids[kept])[rules.limit :]]] = LIMIT
    if rules.removed:  # last, so that no duplicate and no speech beyond the limit takes the removed one's place
        gone = np.array([tombstone(f"{number:016x}") in rules.removed for number in ids.tolist()])
        decision[gone | gone[first]] = REMOVED
    component = connected(
        count, np.concatenate([sides, *(np.column_stack([np.arange(count), of]) for of in (first, talks))])
    )
    return Choice(decision, first, _test(ids, component, decision == KEPT, rules))


def connected(count: int, pairs: Array) -> Array:
    """Return the lowest index in each index's connected component, int64[count]; `pairs` int64[n, 2] are the edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
    labels = connected_components(graph, directed=False)[1]
    lowest = np.full(count, count)
    np.minimum.at(lowest, labels, np.arange(count))
    return lowest[labels]


def _test(ids: Array, component: Array, stays: Array, rules: ChoiceRules) -> Array:
    """Return True for each speech of the test split, bool[speeches]."""
    lowest = np.full(len(ids), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(lowest, component[stays], ids[stays])
    components = np.unique(component[stays])
    shares = {component: share_of(int(lowest[component]), f"split:{rules.seed}") for component in components.tolist()}
    chosen = {component for component, share in shares.items() if share < rules.test_fraction}
    if not chosen and rules.test_fraction and len(shares) > 1:
        chosen = {min(shares, key=shares.__getitem__)}
    return np.isin(component, list(chosen)) & stays


def share_of(number: int, purpose: str) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on an id and a purpose."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{number:016x}".encode()).digest()[:8], "big") / 2**64


def tombstone(speech: str) -> str:
    """Return the hash of an id as it is written in removed.txt."""
    return hashlib.sha256(speech.encode()).hexdigest()
