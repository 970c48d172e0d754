"""Which texts count as the same, and which rows hang together because they share some."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from psychocounsel.data.rows import Example, Message

Array = np.ndarray


def normalised(prompt: Sequence[Message]) -> str:
    """The prompt without what does not make it another one: case, spacing, Unicode form, system message."""
    text = "\n".join(f"{message['role']}: {message['content']}" for message in prompt if message["role"] != "system")
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def reply_key(reply: str) -> str:
    """A reply without what does not make it another one."""
    return normalised([{"role": "assistant", "content": reply}])


def same_texts(texts: Sequence[str]) -> Array:
    """A number for each text, the same for texts that are equal once normalised; int64[texts]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(reply_key(text), len(numbers)) for text in texts], np.int64)


def components(prompt: Sequence[int], replies: Sequence[Sequence[int]]) -> Array:
    """The connected component of each row, where rows that share a prompt or a reply are connected; int64[n].

    `prompt`, `replies`: numbers from 0 of each row's prompt and of its replies. Components are numbered by their first rows.
    """
    shift = max(prompt, default=-1) + 1
    parent = list(range(shift + max(map(max, filter(None, replies)), default=-1) + 1))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for own, some in zip(prompt, replies, strict=True):
        for reply in some:
            parent[root(shift + reply)] = root(own)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(own), len(numbers)) for own in prompt], np.int64)


def components_of(examples: Sequence[Example]) -> Array:
    """The number of each example's component, int64[examples]. Texts that differ only in case and spacing count as shared."""
    prompts: dict[str, int] = {}
    prompt = [prompts.setdefault(normalised(example.prompt), len(prompts)) for example in examples]
    numbers = iter(same_texts([reply for example in examples for reply in example.replies]).tolist())
    return components(prompt, [[next(numbers) for _ in example.replies] for example in examples])
