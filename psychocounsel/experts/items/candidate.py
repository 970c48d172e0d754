"""A speech with two replies that experts may be asked to compare."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from psychocounsel.counsel.risk_rules import CIRCUMSTANCES, NONE, UNKNOWN
from psychocounsel.data.rows import Message
from psychocounsel.data.selection.shared_text import normalised, reply_key


@dataclass(frozen=True)
class ItemCandidate:
    """Two different replies to one speech.

    Attributes:
        item: id, which depends on the speech and the two replies alone.
        speech: id of the speech in the folder that it comes from.
        prompt: the conversation, which ends on the client's turn.
        replies: both texts, in an order that tells nothing of the preference.
        preferred: 0 or 1, the place of the reply that the data prefer; None if they prefer neither.
        gap: how clearly the data prefer it, in their own unit; None where they do not say.
        flags: reasons why the preference is in doubt.
        risk, topic, language: as the data say; None where they do not.
    """

    item: str
    speech: str
    prompt: list[Message]
    replies: tuple[str, str]
    preferred: int | None = None
    gap: float | None = None
    flags: tuple[str, ...] = ()
    risk: str | None = None
    topic: str | None = None
    language: str | None = None

    @property
    def crisis(self) -> bool:
        """Whether the data name a danger. An unknown risk and a circumstance, such as the client's age, are none."""
        return self.risk not in (None, NONE, UNKNOWN, *CIRCUMSTANCES)


def candidate(
    speech: str, prompt: list[Message], first: str, second: str, preferred: int | None, **about: object
) -> ItemCandidate | None:
    """The candidate of two replies; `preferred` counts them as 0 and 1. None if both are the same text."""
    keys = reply_key(first), reply_key(second)
    if keys[0] == keys[1]:
        return None
    digest = hashlib.sha256("\0".join([normalised(prompt), *sorted(keys)]).encode("utf-8", "surrogatepass"))
    turned = keys[0] > keys[1]
    replies = (second, first) if turned else (first, second)
    place = None if preferred is None else preferred ^ turned
    return ItemCandidate(digest.hexdigest()[:16], speech, prompt, replies, place, **about)  # type: ignore[arg-type]


CONTRADICTED = "contradicted"  # the data prefer each of the two replies once


def distinct(candidates: Iterable[ItemCandidate | None]) -> list[ItemCandidate]:
    """Each item once, ordered by id. One that stands there with both preferences is flagged, and prefers neither reply."""
    found: dict[str, ItemCandidate] = {}
    for each in candidates:
        if each is None:
            continue
        known = found.setdefault(each.item, each)
        if known.preferred != each.preferred:
            flags = tuple(dict.fromkeys((*known.flags, *each.flags, CONTRADICTED)))
            found[each.item] = replace(known, preferred=None, gap=None, flags=flags)
    return [found[item] for item in sorted(found)]
