"""Pairs and ratings in the form that an audit measures: distinct texts, and components of pairs that share texts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.messages import Message, client_text
from psychocounsel.data.rows import Example, Ratings
from psychocounsel.data.shared_text import components_of, normalised, reply_key

Array = np.ndarray

LEAST_COMPONENTS = 5  # so that each of the default five folds holds at least one component


@dataclass(frozen=True)
class Pairs:
    """The n pairs of a data set. `prompts` are distinct after normalisation; `replies` are distinct texts.

    Attributes:
        prompt: index into `prompts` of each pair's prompt, int64[n].
        chosen: index into `replies` of each pair's chosen reply, int64[n].
        rejected: index into `replies` of each pair's rejected reply, int64[n].
        component: component of each pair, int64[n]. Pairs of different components share no prompt and no reply, not
            even through other pairs.
        topics: topic of each pair; None unless all pairs have one.
        writers: names of both writers of each pair, chosen first; None unless all pairs have them.
        order: positions of the chosen and the rejected reply in their data row, int64[n, 2]; None unless all replies
            were rated.
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

    @property
    def components(self) -> int:
        """Number of components."""
        return len(np.unique(self.component))

    def speech(self, prompt: int) -> str:
        """Return the client's turns of the prompt with this index, one a line."""
        return client_text(self.prompts[prompt])

    def fingerprint(self) -> str:
        """Return the sha256 of all texts, in the order of the pairs."""
        digest = hashlib.sha256()
        for pair in range(len(self)):
            prompt = "\n".join(message["content"] for message in self.prompts[self.prompt[pair]])
            for text in (prompt, self.replies[self.chosen[pair]], self.replies[self.rejected[pair]]):
                digest.update(hashlib.sha256(text.encode()).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class RatedReplies:
    """The n distinct combinations of prompt, reply and ratings.

    `prompt` and `reply` are normalised texts; `ratings`: float64[n, principles].
    """

    prompt: list[str]
    reply: list[str]
    ratings: Array


def pairs_from(examples: Sequence[Example]) -> Pairs:
    """Return the pair of each example: its first two replies, of which the first is the chosen one."""
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
        component=components_of([replace(example, replies=example.replies[:2]) for example in examples]),
        topics=topics if len(topics) == len(examples) else None,
        writers=writers if len(writers) == len(examples) else None,
        order=np.array(order, np.int64) if len(order) == len(examples) else None,
    )


def pair_ratings(examples: Sequence[Example]) -> Array:
    """Return the ratings of both replies on each principle, float64[pairs, 2, 7]; NaN where a reply has none."""
    rated = [example.ratings or example.some_ratings or [{}, {}] for example in examples]
    return np.array([[[side.get(name, np.nan) for name in PRINCIPLES] for side in pair[:2]] for pair in rated])


def rated_from(examples: Sequence[Example], principles: Sequence[str]) -> RatedReplies:
    """Return all ratings of the examples. A reply that several examples hold with equal ratings counts once."""
    combinations: dict[tuple[str, str, tuple[float, ...]], None] = {}
    for example in examples:
        prompt = normalised(example.prompt)
        for reply, ratings in zip(example.replies, example.ratings or [], strict=False):
            combinations[prompt, reply_key(reply), _values(ratings, principles)] = None
    table = np.array([values for _, _, values in combinations], np.float64).reshape(len(combinations), len(principles))
    return RatedReplies([prompt for prompt, _, _ in combinations], [reply for _, reply, _ in combinations], table)


def _values(ratings: Ratings, principles: Sequence[str]) -> tuple[float, ...]:
    return tuple(ratings[name] for name in principles)
