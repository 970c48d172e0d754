"""Tokenised Groups as a few flat arrays, and back: loads as fast as the disk reads."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from psychocounsel.data.group import Array, Completion, Group

_LABELS = (None, False, True)


def flatten(groups: Sequence[Group]) -> dict[str, Array]:
    """Arrays of G groups with C completions, and P distinct prompts, each kept once.

    `tokens`: int32[all], prompts and then replies, which end at `token_ends`: int64[P + C]. `texts`: uint8[bytes], the
    groups' ids, prompts, replies and the prompts' messages as JSON, which end at `text_ends`: int64[G + P + C + P].
    `prompt_of`, `counts`: int32[G], the prompt and the number of completions of each group. `rewards`: float64[C] (NaN:
    none). `labels`: int8[C].
    """
    numbers: dict[tuple[str, bytes], int] = {}
    prompt_of = [numbers.setdefault((group.prompt_text, group.prompt_ids.tobytes()), len(numbers)) for group in groups]
    prompts = {number: group.prompt_ids for number, group in zip(prompt_of, groups, strict=True)}
    replies = [completion for group in groups for completion in group.completions]
    tokens = [*prompts.values(), *(reply.ids for reply in replies)]
    texts = [*(group.id for group in groups), *(text for text, _ in numbers), *(reply.text for reply in replies)]
    messages = {number: group.messages for number, group in zip(prompt_of, groups, strict=True)}
    texts += [json.dumps(each) for each in messages.values()]
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    return {
        "tokens": np.concatenate([*tokens, np.empty(0, np.int32)]),
        "token_ends": _ends(tokens),
        "texts": np.frombuffer(b"".join(encoded), np.uint8),
        "text_ends": _ends(encoded),
        "prompt_of": np.array(prompt_of, np.int32),
        "counts": np.array([len(group.completions) for group in groups], np.int32),
        "rewards": np.array([np.nan if reply.reward is None else reply.reward for reply in replies], np.float64),
        "labels": np.array([_LABELS.index(reply.label) for reply in replies], np.int8),
    }


def unflatten(arrays: dict[str, Array]) -> list[Group]:
    """The groups that `flatten` was given; their token ids are views of `tokens`."""
    count, distinct = len(arrays["counts"]), len(arrays["token_ends"]) - len(arrays["labels"])
    tokens = _cut(arrays["tokens"], arrays["token_ends"])
    texts = [piece.decode(errors="surrogatepass") for piece in _cut(arrays["texts"].tobytes(), arrays["text_ends"])]
    rewards = [None if math.isnan(reward) else reward for reward in arrays["rewards"].tolist()]
    labels = [_LABELS[label] for label in arrays["labels"].tolist()]
    written = texts[count + distinct : count + distinct + len(rewards)]
    replies = zip(tokens[distinct:], written, rewards, labels, strict=True)
    messages = [json.loads(text) for text in texts[count + distinct + len(rewards) :]]
    made = (Completion(ids, text, reward=reward, label=label) for ids, text, reward, label in replies)
    return [
        Group(name, tokens[prompt], [next(made) for _ in range(size)], texts[count + prompt], messages[prompt])
        for name, prompt, size in zip(texts, arrays["prompt_of"].tolist(), arrays["counts"].tolist(), strict=False)
    ]


def _ends(pieces: Iterable[Any]) -> Array:
    return np.cumsum([len(piece) for piece in pieces], dtype=np.int64)


def _cut(whole: Any, ends: Array) -> list[Any]:
    stops = ends.tolist()
    return [whole[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
