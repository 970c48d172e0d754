"""What an audit looks at: the pairs of a data set with every text held once, and the components that they fall into."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psychocounsel.data.rows import Example, Message, Ratings
from psychocounsel.data.selection.shared_text import components, normalised, reply_key, same_texts

Array = np.ndarray


@dataclass(frozen=True)
class Pairs:
    """n pairs. `prompts` are distinct once normalised; `replies` are distinct texts.

    `prompt`, `chosen`, `rejected`: int64[n], numbers of texts. `component`: int64[n]; pairs of two components share no
    prompt and no reply, however indirectly. `topics`: of each pair, where all have one. `writers`: names, chosen first, where
    all pairs have them. `order`: int64[n, 2], the places of both replies in their rows, where replies were rated.
    """

    ids: list[str]
    prompts: list[list[Message]]
    replies: list[str]
    prompt: Array
    chosen: Array
    rejected: Array
    component: Array
    topics: list[str] | None = None
    writers: list[list[str]] | None = None
    order: Array | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def speech(self, prompt: int) -> str:
        """All that the client says in a prompt."""
        return "\n".join(message["content"] for message in self.prompts[prompt] if message["role"] == "user")

    def fingerprint(self) -> str:
        """sha256 of all texts, in the order of the pairs."""
        digest = hashlib.sha256()
        for pair in range(len(self)):
            prompt = "\n".join(message["content"] for message in self.prompts[self.prompt[pair]])
            for text in (prompt, self.replies[self.chosen[pair]], self.replies[self.rejected[pair]]):
                digest.update(hashlib.sha256(text.encode()).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class RatedReplies:
    """Every rated reply, once a row that rates it. `prompt` and `reply` are normalised texts; `ratings`: float64[n, 7]."""

    prompt: list[str]
    reply: list[str]
    ratings: Array


def pairs_from(examples: Sequence[Example]) -> Pairs:
    """The pairs of examples that have two replies, chosen first."""
    prompts: dict[str, int] = {}
    texts: dict[str, int] = {}
    messages, rows = [], []
    for example in examples:
        key = normalised(example.prompt)
        if key not in prompts:
            prompts[key] = len(prompts)
            messages.append(example.prompt)
        rows.append([prompts[key], *(texts.setdefault(reply, len(texts)) for reply in example.replies[:2])])
    prompt, chosen, rejected = np.array(rows, np.int64).T
    topics = [example.topic for example in examples if example.topic is not None]
    writers = [example.writers for example in examples if example.writers]
    order = [example.order for example in examples if example.order]
    return Pairs(
        ids=[example.id for example in examples],
        prompts=messages,
        replies=list(texts),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        component=components(prompt.tolist(), same_texts(list(texts))[np.stack([chosen, rejected], 1)].tolist()),
        topics=topics if len(topics) == len(examples) else None,
        writers=writers if len(writers) == len(examples) else None,
        order=np.array(order, np.int64) if len(order) == len(examples) else None,
    )


def rated_from(examples: Sequence[Example], principles: Sequence[str]) -> RatedReplies:
    """The ratings of all examples that have some; a reply that several pairs hold with the same ratings counts once."""
    found: dict[tuple[str, str, tuple[float, ...]], None] = {}
    for example in examples:
        prompt = normalised(example.prompt)
        for reply, ratings in zip(example.replies, example.ratings or [], strict=False):
            found[prompt, reply_key(reply), _values(ratings, principles)] = None
    table = np.array([values for _, _, values in found], np.float64).reshape(len(found), len(principles))
    return RatedReplies([prompt for prompt, _, _ in found], [reply for _, reply, _ in found], table)


def _values(ratings: Ratings, principles: Sequence[str]) -> tuple[float, ...]:
    return tuple(ratings[name] for name in principles)
