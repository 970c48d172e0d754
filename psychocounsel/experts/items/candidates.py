"""Candidates for review, their drawing by stratum, and their assignment to experts."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from psychocounsel.counsel.traits import CIRCUMSTANCES, NONE, UNKNOWN
from psychocounsel.data.messages import Message
from psychocounsel.data.shared_text import normalised, reply_key
from psychocounsel.storage.text_hashes import text_id

# Candidates: pairs and cases


@dataclass(frozen=True, kw_only=True)
class ItemCandidate:
    """A client's words that experts may be asked about. Subclasses add the rest of the item.

    Attributes:
        item: id, a hash of the item's content.
        speech: id of the speech in the folder that it comes from.
        prompt: the conversation shown.
        gap: strength of the data's preference for one reply, in the data's unit; None if unknown, or without two replies.
        flags: reasons to doubt the preference.
        risk, topic, language: as recorded in the data; None if unknown.
    """

    item: str
    speech: str
    prompt: list[Message]
    gap: float | None = None
    flags: tuple[str, ...] = ()
    risk: str | None = None
    topic: str | None = None
    language: str | None = None

    @property
    def crisis(self) -> bool:
        """True if the data name a danger. An unknown risk or a circumstance, such as the client's age, is not a danger."""
        return self.risk not in (None, NONE, UNKNOWN, *CIRCUMSTANCES)

    @property
    def risk_unknown(self) -> bool:
        return not self.crisis and self.risk in (None, UNKNOWN)

    @property
    def group(self) -> tuple[str, str]:
        """Stratum of the item, in addition to gap and doubt: items are drawn evenly over strata."""
        return self.risk or "unknown", self.topic or "unknown"


@dataclass(frozen=True, kw_only=True)
class PairCandidate(ItemCandidate):
    """Two different replies to one speech. The prompt ends with the client's turn.

    Attributes:
        replies: both texts, in an order that is independent of the preference.
        preferred: index (0 or 1) of the reply that the data prefer; None without a preference.
    """

    replies: tuple[str, str]
    preferred: int | None = None


@dataclass(frozen=True, kw_only=True)
class CaseCandidate(ItemCandidate):
    """A speech or a whole session, about which an expert answers fixed questions.

    Attributes:
        given: cells of the case's row in its source table, which exports repeat.
        expected_action: action that the data expect of a reply: one of ACTIONS, or another word if unknown.
        strata: two values over which cases are drawn evenly.
    """

    given: dict[str, str]
    expected_action: str
    strata: tuple[str, str]

    @property
    def crisis(self) -> bool:
        """True for every case: a warning or a break for only some cases would reveal the expected action."""
        return True

    @property
    def group(self) -> tuple[str, str]:
        return self.strata


def pair_candidate(
    speech: str, prompt: list[Message], first: str, second: str, preferred: int | None, **about: object
) -> PairCandidate | None:
    """Return the candidate of two replies, or None if both texts are equal. `preferred` is the index of the better reply."""
    keys = reply_key(first), reply_key(second)
    if keys[0] == keys[1]:
        return None
    turned = keys[0] > keys[1]
    replies = (second, first) if turned else (first, second)
    place = None if preferred is None else preferred ^ turned
    item = text_id(normalised(prompt), *sorted(keys))
    return PairCandidate(item=item, speech=speech, prompt=prompt, replies=replies, preferred=place, **about)  # type: ignore[arg-type]


CONTRADICTED = "contradicted"  # the data prefer each of the two replies once


def distinct(candidates: Iterable[PairCandidate | None]) -> list[PairCandidate]:
    """Return each item once, ordered by id. An item with contradicting preferences gets a flag and no preference."""
    by_item: dict[str, PairCandidate] = {}
    for candidate in candidates:
        if candidate is None:
            continue
        known = by_item.setdefault(candidate.item, candidate)
        if known.preferred != candidate.preferred:
            flags = tuple(dict.fromkeys((*known.flags, *candidate.flags, CONTRADICTED)))
            by_item[candidate.item] = replace(known, preferred=None, gap=None, flags=flags)
    return [by_item[item] for item in sorted(by_item)]


# Drawing: items at risk first, the others evenly over strata of risk, topic, gap and doubt; or all clients alike

Stratum = tuple[str, ...]
_GAP_BANDS = 3  # bands of the gap, with equal numbers of candidates


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


def draw_evenly(candidates: Sequence[ItemCandidate], count: int, seed: int) -> list[Drawn]:
    """Draw at most `count` items, so that each speech has the same chance, whatever its risk; a speech's second item comes
    after every speech has one. Figures about such items hold for all candidates without weights.
    """
    random = np.random.default_rng(seed)
    of_speech: dict[str, list[ItemCandidate]] = defaultdict(list)
    for number in random.permutation(len(candidates)):
        of_speech[candidates[number].speech].append(candidates[number])
    turns = [(place, candidate) for items in of_speech.values() for place, candidate in enumerate(items)]
    drawn = [candidate for _, candidate in sorted(turns, key=lambda turn: turn[0])][:count]
    return [Drawn(candidate, ("all",), len(drawn) / len(candidates)) for candidate in drawn]


def draw_items(candidates: Sequence[ItemCandidate], count: int, seed: int) -> list[Drawn]:
    """Draw at most `count` items. Candidates at risk come first; if they exceed `count`, they are drawn in the same way.

    One candidate is drawn from each stratum in turn. Within a stratum, speeches without an item come first.
    """
    random = np.random.default_rng(seed)
    bands = _gap_bands(candidates)
    dangers = [candidate for candidate in candidates if candidate.crisis]
    others = [candidate for candidate in candidates if not candidate.crisis]
    used = dict[str, int]()
    drawn = _in_turn(dangers, bands, min(count, len(dangers)), random, used)
    return drawn + _in_turn(others, bands, min(count - len(drawn), len(others)), random, used)


def _in_turn(
    candidates: Sequence[ItemCandidate],
    bands: dict[str, str],
    count: int,
    random: np.random.Generator,
    used: dict[str, int],
) -> list[Drawn]:
    waiting: dict[Stratum, list[ItemCandidate]] = defaultdict(list)
    for number in random.permutation(len(candidates)):
        candidate = candidates[number]
        doubt = "flagged" if candidate.flags else "clear"
        waiting[*candidate.group, bands[candidate.item], doubt].append(candidate)
    sizes = {stratum: len(members) for stratum, members in waiting.items()}
    taken: dict[Stratum, list[ItemCandidate]] = {stratum: [] for stratum in waiting}
    order = list(waiting)
    for _ in range(count):
        fewest = min(len(taken[stratum]) for stratum in order if waiting[stratum])
        stratum = next(key for key in order if waiting[key] and len(taken[key]) == fewest)
        place = min(range(len(waiting[stratum])), key=lambda at: used.get(waiting[stratum][at].speech, 0))
        candidate = waiting[stratum].pop(place)
        used[candidate.speech] = used.get(candidate.speech, 0) + 1
        taken[stratum].append(candidate)
    return [
        Drawn(candidate, stratum, len(members) / sizes[stratum])
        for stratum, members in taken.items()
        for candidate in members
    ]


def _gap_bands(candidates: Sequence[ItemCandidate]) -> dict[str, str]:
    """Return by item the band of its gap: `small`, `middle` or `large`, or `unknown` if the data have no gap."""
    known = sorted((candidate.gap, candidate.item) for candidate in candidates if candidate.gap is not None)
    names = ("small", "middle", "large")
    bands = {item: names[place * _GAP_BANDS // len(known)] for place, (_, item) in enumerate(known)}
    return {candidate.item: bands.get(candidate.item, "unknown") for candidate in candidates}


# Assignment: which items, in which order, and with which reply on the left


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
    assigned: dict[str, list[str]] = {expert: [] for expert in experts}
    together = np.zeros((len(experts), len(experts)), np.int64)
    for item in items:
        chosen = list[int]()
        for _ in range(overlap):
            ties = random.random(len(experts))
            left = [number for number in range(len(experts)) if number not in chosen]
            best = min(left, key=lambda at: (len(assigned[experts[at]]), int(together[at, chosen].sum()), ties[at]))
            chosen.append(best)
            assigned[experts[best]].append(item)
        for one in chosen:
            together[one, [other for other in chosen if other != one]] += 1
    return assigned


def sequence(own: Sequence[ItemCandidate], repeats: float, seed: int, expert: int) -> list[Shown]:
    """Return the order in which an expert sees the items: random, with items at risk spread evenly.

    A share `repeats` of the items is shown again in the second half, with new sides. Items at risk are repeated only if there are
    too few others, so that repeats add no exposure.
    """
    random = np.random.default_rng([seed, 2, expert])
    order = _spread(own, random)
    first = [Shown(candidate.item, 0, int(random.integers(2))) for candidate in order]
    count = math.ceil(repeats * len(own)) if repeats else 0
    half = len(first) // 2
    early = sorted(range(len(first)), key=lambda at: (order[at].crisis, at >= half, random.random()))[:count]
    places = [(float(at), shown) for at, shown in enumerate(first)]
    for at in early:
        earliest = max(half, at + max(1, half // 2))
        place = random.uniform(min(earliest, len(first)), len(first))
        places.append((place, Shown(first[at].item, 1, int(random.integers(2)))))
    return [shown for _, shown in sorted(places, key=lambda entry: (entry[0], entry[1].repeat))]


def _spread(own: Sequence[ItemCandidate], random: np.random.Generator) -> list[ItemCandidate]:
    places = list[tuple[float, int]]()
    for danger in (True, False):
        group = [number for number, candidate in enumerate(own) if candidate.crisis == danger]
        random.shuffle(group)
        places += [((at + random.random()) / len(group), number) for at, number in enumerate(group)]
    return [own[number] for _, number in sorted(places)]
