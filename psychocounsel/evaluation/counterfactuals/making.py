"""Counterfactuals, made by rules or written by a language model: the choice of pairs, and the changed replies."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.chat_server import read_completion
from psychocounsel.asking.language_model import TEXT
from psychocounsel.counsel.cues import CUES
from psychocounsel.data.control_tokens import may_forge_turns
from psychocounsel.data.rows import Example
from psychocounsel.data.shared_text import normalised
from psychocounsel.evaluation.counterfactuals.rules import KINDS, Kind
from psychocounsel.remote.client import Client

# Choice of pairs and replies to change, and counterfactuals made by rules.


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
    made = []
    for kind in kinds:
        for pair, side in wanted(examples, pairs, kind):
            reply = examples[pair].replies[side]
            text = kind.change(reply) if kind.change else _strangers_reply(examples, pair)
            if text is not None and text != reply:
                made.append(Counterfactual(pair, side, kind, text))
    return made


def _strangers_reply(examples: Sequence[Example], pair: int) -> str | None:
    """Return another client's chosen reply that resembles the pair's own most: the same ending, then the nearest length."""
    own, prompt = examples[pair].replies[0], normalised(examples[pair].prompt)
    others = {example.replies[0] for example in examples if normalised(example.prompt) != prompt} - {own}
    ending, length = CUES["ending"], CUES["length"]
    return min(
        others, key=lambda text: (ending(text) != ending(own), abs(length(text) - length(own)), text), default=None
    )


# Counterfactuals written by a language model on an OpenAI-compatible server.

_ROUTE = "/chat/completions"
_TASK = (
    "You edit replies of counsellors for a test of reading. You are given one reply. {instruction} "
    "Answer with the edited reply alone. If there is nothing to change, answer with the one word NONE."
)
_LONGEST = 2.0  # times the reply's characters; a longer answer does not count as an edit


def by_model(
    settings: DictConfig,
    journal: Path,
    examples: Sequence[Example],
    pairs: Sequence[int],
    kinds: Sequence[Kind],
    progress: Callable[[range], Iterable[int]] = iter,
) -> list[Counterfactual]:
    """Return the counterfactuals of these pairs by a language model. Replies whose answer is unchanged or no edit are skipped.

    The server receives single replies, never the client's speech; `journal` keeps its answers. A reply that the server might
    read as several turns (`may_forge_turns`) is neither sent nor changed.

    Raises:
        UserError: if an address is malformed, the environment variable of the key is not set, no server is left, a server
            refuses, or an answer is not a chat completion.
    """
    asked = [(kind, *place) for kind in kinds for place in wanted(examples, pairs, kind)]
    places = [(kind, pair, side) for kind, pair, side in asked if not may_forge_turns(examples[pair].replies[side])]
    payloads = [_payload(settings.model, kind, examples[pair].replies[side]) for kind, pair, side in places]
    client = Client(
        settings.addresses,
        "counterfactuals",
        timeout_seconds=settings.timeout_seconds,
        retries=settings.retries,
        concurrency=settings.concurrency,
        key_variable=settings.key_variable,
        journal=journal,
    )
    with closing(client):
        answers = client.answers(_ROUTE, payloads, _read)
        texts = [next(answers) for _ in progress(range(len(payloads)))]
    return [
        Counterfactual(pair, side, kind, text)
        for (kind, pair, side), text in zip(places, texts, strict=True)
        if _is_edit(text, examples[pair].replies[side])
    ]


def _payload(model: str, kind: Kind, reply: str) -> dict[str, Any]:
    task = _TASK.format(instruction=kind.instruction)
    messages = [{"role": "system", "content": task}, {"role": "user", "content": reply}]
    return {"model": model, "messages": messages, "temperature": 0}


def _read(answer: Any, payload: Any) -> str:
    """Return the text of a chat completion; "" if it was cut at its token limit, refused, or has no valid text."""
    completion = read_completion(answer, payload)
    return completion.text.strip() if completion.outcome == TEXT and "\ufffd" not in completion.text else ""


def _is_edit(text: str, reply: str) -> bool:
    return bool(text) and text.strip(".").upper() != "NONE" and text != reply and len(text) <= _LONGEST * len(reply)
