"""Conversion of tokenised Groups to a few flat arrays and back, so that they load as fast as the disk reads."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from psychocounsel.data.group import Array, Completion, Group

_LABELS = (None, False, True)


def flatten(groups: Sequence[Group]) -> dict[str, Array]:
    """Return the arrays of G groups with C completions and P distinct prompts; each prompt is stored once.

    They hold the fields that tokenising fills; weights and fields of rollouts (`logprobs`, ...) are left out.

    `tokens`: int32[all], tokens of all prompts, then of all replies. `token_ends`: int64[P + C], the end of each.
    `texts`: uint8[bytes], the groups' ids, the prompts, the replies, and the prompts' messages as JSON. `text_ends`:
    int64[G + P + C + P], the end of each.
    `prompt_of`, `counts`: int32[G], the prompt and the number of completions of each group.
    `rewards`: float64[C] (NaN: none). `labels`: int8[C]. `probabilities`: float64[G] (NaN: none).
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
        "rewards": _or_nan([reply.reward for reply in replies]),
        "labels": np.array([_LABELS.index(reply.label) for reply in replies], np.int8),
        "probabilities": _or_nan([group.probability for group in groups]),
    }


def unflatten(arrays: dict[str, Array]) -> list[Group]:
    """Return the groups of the arrays that `flatten` made; their token ids are views of `tokens`."""
    count, distinct = len(arrays["counts"]), len(arrays["token_ends"]) - len(arrays["labels"])
    tokens = _cut(arrays["tokens"], arrays["token_ends"])
    texts = [piece.decode(errors="surrogatepass") for piece in _cut(arrays["texts"].tobytes(), arrays["text_ends"])]
    rewards, probabilities = (_or_none(arrays[name]) for name in ("rewards", "probabilities"))
    labels = [_LABELS[label] for label in arrays["labels"].tolist()]
    written = texts[count + distinct : count + distinct + len(rewards)]
    replies = zip(tokens[distinct:], written, rewards, labels, strict=True)
    messages = [json.loads(text) for text in texts[count + distinct + len(rewards) :]]
    made = (Completion(ids, text, reward=reward, label=label) for ids, text, reward, label in replies)
    prompt_of, counts = arrays["prompt_of"].tolist(), arrays["counts"].tolist()
    return [
        Group(
            name,
            tokens[prompt],
            [next(made) for _ in range(size)],
            texts[count + prompt],
            messages[prompt],
            probability=probability,
        )
        for name, prompt, size, probability in zip(texts, prompt_of, counts, probabilities, strict=False)
    ]


def _or_nan(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _or_none(values: Array) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _ends(pieces: Iterable[Any]) -> Array:
    return np.cumsum([len(piece) for piece in pieces], dtype=np.int64)


def _cut(whole: Any, ends: Array) -> list[Any]:
    stops = ends.tolist()
    return [whole[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
