"""Assignment of items to experts: which items, in which order, and with which reply on the left."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psychocounsel.experts.items.candidate import ItemCandidate


@dataclass(frozen=True)
class Shown:
    """An item as one expert sees it.

    Attributes:
        item: the item's id.
        repeat: 0 the first time, 1 the second time.
        left: index (0 or 1) in PairCandidate.replies of the reply on the left.
    """

    item: str
    repeat: int
    left: int


def assign(items: Sequence[str], experts: Sequence[str], overlap: int, seed: int) -> dict[str, list[str]]:
    """Return the items of each expert, so that every item has `overlap` experts.

    Experts with the fewest items are chosen first; among equals, those who share the fewest items with experts already chosen.
    """
    random = np.random.default_rng([seed, 1])
    found: dict[str, list[str]] = {expert: [] for expert in experts}
    together = np.zeros((len(experts), len(experts)), np.int64)
    for item in items:
        chosen = list[int]()
        for _ in range(overlap):
            ties = random.random(len(experts))
            left = [number for number in range(len(experts)) if number not in chosen]
            best = min(left, key=lambda at: (len(found[experts[at]]), int(together[at, chosen].sum()), ties[at]))
            chosen.append(best)
            found[experts[best]].append(item)
        for one in chosen:
            together[one, [other for other in chosen if other != one]] += 1
    return found


def sequence(own: Sequence[ItemCandidate], repeats: float, seed: int, expert: int) -> list[Shown]:
    """Return the order in which an expert sees the items: random, with items at risk spread evenly.

    A share `repeats` of the items is shown again in the second half, with new sides. Items at risk are repeated only if there are
    too few others, so that repeats add no exposure.
    """
    random = np.random.default_rng([seed, 2, expert])
    order = _spread(own, random)
    first = [Shown(each.item, 0, int(random.integers(2))) for each in order]
    count = math.ceil(repeats * len(own)) if repeats else 0
    half = len(first) // 2
    early = sorted(range(len(first)), key=lambda at: (order[at].crisis, at >= half, random.random()))[:count]
    places = [(float(at), shown) for at, shown in enumerate(first)]
    for at in early:
        earliest = max(half, at + max(1, half // 2))
        place = random.uniform(min(earliest, len(first)), len(first))
        places.append((place, Shown(first[at].item, 1, int(random.integers(2)))))
    return [shown for _, shown in sorted(places, key=lambda each: (each[0], each[1].repeat))]


def _spread(own: Sequence[ItemCandidate], random: np.random.Generator) -> list[ItemCandidate]:
    places = list[tuple[float, int]]()
    for danger in (True, False):
        group = [number for number, each in enumerate(own) if each.crisis == danger]
        random.shuffle(group)
        places += [((at + random.random()) / len(group), number) for at, number in enumerate(group)]
    return [own[number] for _, number in sorted(places)]
