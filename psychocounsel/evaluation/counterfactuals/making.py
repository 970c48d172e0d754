"""Choice of pairs and replies to change, and counterfactuals made by rules."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from psychocounsel.counsel.cues import CUES
from psychocounsel.data.rows import Example
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.evaluation.counterfactuals.change_kinds import KINDS, Kind


@dataclass(frozen=True)
class Counterfactual:
    """Changed reply: `text` replaces reply `side` (0: chosen, 1: rejected) of pair number `pair`."""

    pair: int
    side: int
    kind: Kind
    text: str


def spread(examples: Sequence[Example], limit: int) -> list[int]:
    """Return the numbers of at most `limit` pairs, in ascending order.

    One pair of each prompt is chosen first, then a second pair of each prompt, and so on.
    """
    seen = Counter[str]()
    turns = []
    for index, example in enumerate(examples):
        prompt = normalised(example.prompt)
        turns.append((seen[prompt], index))
        seen[prompt] += 1
    return sorted(index for _, index in sorted(turns)[:limit])


def wanted(examples: Sequence[Example], pairs: Sequence[int], kind: Kind) -> list[tuple[int, int]]:
    """Return (pair, side) of the replies to change: both replies of each pair for a style change, otherwise chosen ones.

    A chosen reply that several pairs of one prompt share is returned once.
    """
    if not kind.prefers_original:
        return [(pair, side) for pair in pairs for side in (0, 1)]
    firsts = {(normalised(examples[pair].prompt), examples[pair].replies[0]): pair for pair in reversed(pairs)}
    return [(pair, 0) for pair in sorted(firsts.values())]


def by_rules(examples: Sequence[Example], pairs: Sequence[int], kinds: Sequence[Kind] = KINDS) -> list[Counterfactual]:
    """Return the counterfactuals of these pairs. A reply is skipped if the rule finds nothing to change in it."""
    found = []
    for kind in kinds:
        for pair, side in wanted(examples, pairs, kind):
            reply = examples[pair].replies[side]
            text = kind.change(reply) if kind.change else _strangers_reply(examples, pair)
            if text is not None and text != reply:
                found.append(Counterfactual(pair, side, kind, text))
    return found


def _strangers_reply(examples: Sequence[Example], pair: int) -> str | None:
    """Return another client's chosen reply that resembles the pair's own most: the same ending, then the nearest length."""
    own, prompt = examples[pair].replies[0], normalised(examples[pair].prompt)
    others = {example.replies[0] for example in examples if normalised(example.prompt) != prompt} - {own}
    ending, length = CUES["ending"], CUES["length"]
    return min(
        others, key=lambda text: (ending(text) != ending(own), abs(length(text) - length(own)), text), default=None
    )
