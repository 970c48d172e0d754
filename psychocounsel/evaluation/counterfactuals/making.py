"""Counterfactuals of the replies of pairs: which pairs, which of their replies, and which other client's reply."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from psychocounsel.counsel.cues import CUES
from psychocounsel.data.rows import Example
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.evaluation.counterfactuals.change_kinds import KINDS, Kind


@dataclass(frozen=True)
class Counterfactual:
    """The reply number `side` of pair number `pair` (0: chosen, 1: rejected), changed to `text`."""

    pair: int
    side: int
    kind: Kind
    text: str


def spread(examples: Sequence[Example], limit: int) -> list[int]:
    """At most `limit` pairs by number: first one of each prompt, then a second one of each, and so on."""
    seen = Counter[str]()
    turns = []
    for index, example in enumerate(examples):
        prompt = normalised(example.prompt)
        turns.append((seen[prompt], index))
        seen[prompt] += 1
    return sorted(index for _, index in sorted(turns)[:limit])


def wanted(examples: Sequence[Example], pairs: Sequence[int], kind: Kind) -> list[tuple[int, int]]:
    """(pair, side) of the replies to change: both of each pair where only looks change, else each chosen reply once."""
    if not kind.prefers_original:
        return [(pair, side) for pair in pairs for side in (0, 1)]
    firsts = {(normalised(examples[pair].prompt), examples[pair].replies[0]): pair for pair in reversed(pairs)}
    return [(pair, 0) for pair in sorted(firsts.values())]


def by_rules(examples: Sequence[Example], pairs: Sequence[int], kinds: Sequence[Kind] = KINDS) -> list[Counterfactual]:
    """The counterfactuals of these pairs; a reply in which a rule finds nothing to change has none of its kind."""
    found = []
    for kind in kinds:
        for pair, side in wanted(examples, pairs, kind):
            reply = examples[pair].replies[side]
            text = kind.change(reply) if kind.change else _strangers_reply(examples, pair)
            if text is not None and text != reply:
                found.append(Counterfactual(pair, side, kind, text))
    return found


def _strangers_reply(examples: Sequence[Example], pair: int) -> str | None:
    """Another client's chosen reply that looks most like the pair's own: it ends alike, and is nearest in length."""
    own, prompt = examples[pair].replies[0], normalised(examples[pair].prompt)
    others = {example.replies[0] for example in examples if normalised(example.prompt) != prompt} - {own}
    ending, length = CUES["ending"], CUES["length"]
    return min(
        others, key=lambda text: (ending(text) != ending(own), abs(length(text) - length(own)), text), default=None
    )
