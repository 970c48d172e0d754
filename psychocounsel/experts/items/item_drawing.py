"""Drawing of items from candidates: those at risk first, the others evenly over strata of risk, topic, gap and doubt."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psychocounsel.experts.items.candidate import ItemCandidate

Stratum = tuple[str, ...]
_BANDS = 3  # bands of the gap, with equal numbers of candidates


@dataclass(frozen=True)
class Drawn:
    """An item of the review.

    Attributes:
        stratum: the two values of the candidate's group, its band of the gap, and whether the preference is in doubt.
        share: share of the stratum's candidates that were drawn. The item's weight is 1 / share.
    """

    candidate: ItemCandidate
    stratum: Stratum
    share: float


def draw_items(candidates: Sequence[ItemCandidate], count: int, seed: int) -> list[Drawn]:
    """Draw at most `count` items. Candidates at risk come first; if they exceed `count`, they are drawn in the same way.

    One candidate is drawn from each stratum in turn. Within a stratum, speeches without an item come first.
    """
    random = np.random.default_rng(seed)
    bands = _bands(candidates)
    dangers = [each for each in candidates if each.crisis]
    others = [each for each in candidates if not each.crisis]
    used = dict[str, int]()
    found = _in_turn(dangers, bands, min(count, len(dangers)), random, used)
    return found + _in_turn(others, bands, min(count - len(found), len(others)), random, used)


def _in_turn(
    candidates: Sequence[ItemCandidate],
    bands: dict[str, str],
    count: int,
    random: np.random.Generator,
    used: dict[str, int],
) -> list[Drawn]:
    waiting: dict[Stratum, list[ItemCandidate]] = defaultdict(list)
    for number in random.permutation(len(candidates)):
        each = candidates[number]
        doubt = "flagged" if each.flags else "clear"
        waiting[*each.group, bands[each.item], doubt].append(each)
    sizes = {stratum: len(members) for stratum, members in waiting.items()}
    taken: dict[Stratum, list[ItemCandidate]] = {stratum: [] for stratum in waiting}
    order = list(waiting)
    for _ in range(count):
        fewest = min(len(taken[stratum]) for stratum in order if waiting[stratum])
        stratum = next(each for each in order if waiting[each] and len(taken[each]) == fewest)
        place = min(range(len(waiting[stratum])), key=lambda at: used.get(waiting[stratum][at].speech, 0))
        each = waiting[stratum].pop(place)
        used[each.speech] = used.get(each.speech, 0) + 1
        taken[stratum].append(each)
    return [
        Drawn(each, stratum, len(members) / sizes[stratum]) for stratum, members in taken.items() for each in members
    ]


def _bands(candidates: Sequence[ItemCandidate]) -> dict[str, str]:
    """Return by item the band of its gap: `small`, `middle` or `large`, or `unknown` if the data have no gap."""
    known = sorted((each.gap, each.item) for each in candidates if each.gap is not None)
    names = ("small", "middle", "large")
    found = {item: names[place * _BANDS // len(known)] for place, (_, item) in enumerate(known)}
    return {each.item: found.get(each.item, "unknown") for each in candidates}
