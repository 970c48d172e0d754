"""Candidates for review: a speech with two replies to compare, or a case with questions to answer."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from psychocounsel.counsel.risk_rules import CIRCUMSTANCES, NONE, UNKNOWN
from psychocounsel.data.rows import Message
from psychocounsel.data.selection.shared_text import normalised, reply_key


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


def candidate(
    speech: str, prompt: list[Message], first: str, second: str, preferred: int | None, **about: object
) -> PairCandidate | None:
    """Return the candidate of two replies, or None if both texts are equal. `preferred` is the index of the better reply."""
    keys = reply_key(first), reply_key(second)
    if keys[0] == keys[1]:
        return None
    digest = hashlib.sha256("\0".join([normalised(prompt), *sorted(keys)]).encode("utf-8", "surrogatepass"))
    turned = keys[0] > keys[1]
    replies = (second, first) if turned else (first, second)
    place = None if preferred is None else preferred ^ turned
    item = digest.hexdigest()[:16]
    return PairCandidate(item=item, speech=speech, prompt=prompt, replies=replies, preferred=place, **about)  # type: ignore[arg-type]


CONTRADICTED = "contradicted"  # the data prefer each of the two replies once


def distinct(candidates: Iterable[PairCandidate | None]) -> list[PairCandidate]:
    """Return each item once, ordered by id. An item with contradicting preferences gets a flag and no preference."""
    found: dict[str, PairCandidate] = {}
    for each in candidates:
        if each is None:
            continue
        known = found.setdefault(each.item, each)
        if known.preferred != each.preferred:
            flags = tuple(dict.fromkeys((*known.flags, *each.flags, CONTRADICTED)))
            found[each.item] = replace(known, preferred=None, gap=None, flags=flags)
    return [found[item] for item in sorted(found)]
