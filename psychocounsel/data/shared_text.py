"""Equality of texts after normalisation, and components of rows or groups connected by shared texts."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from psychocounsel.data.group import Array, Group
from psychocounsel.data.messages import Message
from psychocounsel.data.near_duplicates import CJK
from psychocounsel.data.rows import Example


def normalised(prompt: Sequence[Message]) -> str:
    """Return the prompt without irrelevant differences: case, spacing, Unicode form, system message."""
    text = "\n".join(f"{message['role']}: {message['content']}" for message in prompt if message["role"] != "system")
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def reply_key(reply: str) -> str:
    """Return a reply without irrelevant differences: case, spacing, Unicode form."""
    return normalised([{"role": "assistant", "content": reply}])


def same_texts(texts: Sequence[str]) -> Array:
    """Return a number for each text, equal for texts that are equal after normalisation, int64[texts]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(reply_key(text), len(numbers)) for text in texts], np.int64)


def components(prompt: Sequence[int], replies: Sequence[Sequence[int]]) -> Array:
    """Return the connected component of each row, int64[n]; rows that share a prompt or a reply are connected.

    `prompt`, `replies`: numbers, from 0, of each row's prompt and of its replies. Components are numbered by first
    occurrence.
    """
    shift = max(prompt, default=-1) + 1
    parent = list(range(shift + max(map(max, filter(None, replies)), default=-1) + 1))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for own, members in zip(prompt, replies, strict=True):
        for reply in members:
            parent[root(shift + reply)] = root(own)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(own), len(numbers)) for own in prompt], np.int64)


_TELLING = 10  # words; shorter openings, such as "Hello, how are you?", are those of many clients
_CHARACTERS = re.compile(f"[{CJK}]")  # each is about a word
_LONG_WORD = 8  # characters; in Thai and others no spaces separate words


def hash_of(prompt: Sequence[Message]) -> bytes:
    """Return the hash of the normalised prompt."""
    return hashlib.sha256(normalised(prompt).encode("utf-8", "surrogatepass")).digest()


def openings(prompt: Sequence[Message]) -> list[bytes]:
    """Return the hashes (`hash_of`) of the beginnings of a session that end with a client's turn, without the whole.

    A row for each turn of a session has the prompts of the earlier rows as openings. Short ones say nothing and are left out.
    """
    turns = [message for message in prompt if message["role"] != "system"]
    said, count, found = hashlib.sha256(), 0, list[bytes]()
    for turn in turns[:-1]:
        text = normalised([turn])
        said.update((" " * (count > 0) + text).encode("utf-8", "surrogatepass"))
        count += max(len(text.split()), len(_CHARACTERS.findall(text)), len(text) // _LONG_WORD)
        if turn["role"] == "user" and count > _TELLING:
            found.append(said.digest())
    return found


def components_of(examples: Sequence[Example]) -> Array:
    """Return the component of each example, int64[examples]. Texts that differ only in case and spacing count as shared.

    A prompt that is an opening of another one is connected with it, so that the turns of a session stay together.
    """
    prompts: dict[bytes, int] = {}
    prompt = [prompts.setdefault(hash_of(example.prompt), len(prompts)) for example in examples]
    texts = same_texts([reply for example in examples for reply in example.replies])
    numbers, free = iter(texts.tolist()), int(texts.max(initial=-1)) + 1
    shared = [[next(numbers) for _ in example.replies] for example in examples]
    for example, own, of_row in zip(examples, prompt, shared, strict=True):
        earlier = [prompts[opening] for opening in openings(example.prompt) if opening in prompts]
        of_row += [free + number for number in (own, *earlier)]
    return components(prompt, shared)


_TELLING_TOKENS = 16  # beyond what all prompts begin with: an opening of about ten words


def clients_of_groups(groups: Sequence[Group]) -> Array:
    """Return a number for each group, int64[groups]; equal for equal prompts, and for the turns of one session.

    The prompt of an earlier turn, as tokens, is a beginning of those of later turns.
    """
    prompts = [group.prompt_ids.astype("<i4").tobytes() for group in groups]
    ordered, opened, client = sorted({*prompts}), list[bytes](), dict[bytes, int]()
    ends = zip(ordered[0], ordered[-1], strict=False) if ordered else ()
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))  # the system prompt
    for prompt in ordered:
        while opened and not prompt.startswith(opened[-1]):
            opened.pop()
        client[prompt] = client[opened[-1]] if opened else len(client)
        if len(prompt) - common > 4 * _TELLING_TOKENS:
            opened.append(prompt)
    return np.array([client[prompt] for prompt in prompts], np.int64)


def components_of_groups(groups: Sequence[Group]) -> Array:
    """Return the component of each group, int64[groups]; groups that share a client or a reply (as tokens) are connected."""
    numbers: dict[int, int] = {}
    clients = [numbers.setdefault(client, len(numbers)) for client in clients_of_groups(groups).tolist()]
    texts: dict[bytes, int] = {}
    replies = [[texts.setdefault(reply.ids.tobytes(), len(texts)) for reply in group.completions] for group in groups]
    return components(clients, replies)
