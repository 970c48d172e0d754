"""What experts may be asked about: a speech with two replies to compare, or a case with questions to answer."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from psychocounsel.counsel.risk_rules import CIRCUMSTANCES, NONE, UNKNOWN
from psychocounsel.data.rows import Message
from psychocounsel.data.selection.shared_text import normalised, reply_key


@dataclass(frozen=True, kw_only=True)
class ItemCandidate:
    """A client's words that experts may be asked about. What else an item shows, its subclasses say.

    Attributes:
        item: id, which depends on what the item shows alone.
        speech: id of the speech in the folder that it comes from.
        prompt: the conversation that is shown.
        gap: how clearly the data prefer one reply, in their own unit; None where they do not say, or there are not two.
        flags: reasons why the preference is in doubt.
        risk, topic, language: as the data say; None where they do not.
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
        """Whether the data name a danger. An unknown risk and a circumstance, such as the client's age, are none."""
        return self.risk not in (None, NONE, UNKNOWN, *CIRCUMSTANCES)

    @property
    def group(self) -> tuple[str, str]:
        """What items are drawn evenly over, besides gap and doubt."""
        return self.risk or "unknown", self.topic or "unknown"


@dataclass(frozen=True, kw_only=True)
class PairCandidate(ItemCandidate):
    """Two different replies to one speech. The prompt ends on the client's turn.

    Attributes:
        replies: both texts, in an order that tells nothing of the preference.
        preferred: 0 or 1, the place of the reply that the data prefer; None if they prefer neither.
    """

    replies: tuple[str, str]
    preferred: int | None = None


@dataclass(frozen=True, kw_only=True)
class CaseCandidate(ItemCandidate):
    """A speech or a whole session, about which an expert answers fixed questions.

    Attributes:
        given: cells of the table that it comes from, which exports repeat.
        expected_action: what the data expect of a reply: one of ACTIONS, or another word where they do not say.
        strata: two values that cases are drawn evenly over.
    """

    given: dict[str, str]
    expected_action: str
    strata: tuple[str, str]

    @property
    def crisis(self) -> bool:
        """Every case counts as one of a client at risk: a warning or break for some alone would tell what is expected."""
        return True

    @property
    def group(self) -> tuple[str, str]:
        return self.strata


def candidate(
    speech: str, prompt: list[Message], first: str, second: str, preferred: int | None, **about: object
) -> PairCandidate | None:
    """The candidate of two replies; `preferred` counts them as 0 and 1. None if both are the same text."""
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
    """Each item once, ordered by id. One that stands there with both preferences is flagged, and prefers neither reply."""
    found: dict[str, PairCandidate] = {}
    for each in candidates:
        if each is None:
            continue
        known = found.setdefault(each.item, each)
        if known.preferred != each.preferred:
            flags = tuple(dict.fromkeys((*known.flags, *each.flags, CONTRADICTED)))
            found[each.item] = replace(known, preferred=None, gap=None, flags=flags)
    return [found[item] for item in sorted(found)]
