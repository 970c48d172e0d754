"""What a reward model reads and returns: conversations in its own chat template, and the scale of its rewards."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psychocounsel.data.group import Array
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.errors import UserError
from psychocounsel.reward.base import Conversation, Scorer, scored

# Conversations in a reward model's own chat template and tokens, wherever the model runs


class Unscorable(UserError):
    """Error: the reward model cannot read a conversation, because its chat template refuses or changes it."""


class TooManyTokens(Unscorable):
    """Error: a conversation is longer than the reward model's limit."""


@dataclass
class Encoded:
    """Conversation as text, for a server that tokenises it, and as token ids, int32[prompt] and int32[reply]."""

    prompt_text: str
    text: str
    prompt: Array
    reply: Array

    @property
    def ids(self) -> Array:
        return np.concatenate([self.prompt, self.reply])


def encode_conversations(
    chat: ChatFormat, conversations: Sequence[Conversation], max_length: int | None, first: int = 0
) -> list[Encoded]:
    """Encode conversations; errors number them from `first`.

    Raises:
        UserError: for a conversation that does not end with a reply.
        Unscorable: for a conversation that the chat template refuses or changes, such as one with thoughts.
        TooManyTokens: for a conversation of more than `max_length` tokens.
    """
    for number, conversation in enumerate(conversations, first):
        if not conversation or conversation[-1]["role"] != "assistant":
            raise UserError(f"conversation {number}: does not end with a reply (a message of role assistant)")
    try:
        prompts = [chat.render(conversation[:-1]) for conversation in conversations]
        whole = [chat.render(conversation[:-1], conversation[-1]["content"]) for conversation in conversations]
        texts = list(dict.fromkeys(prompts))
        ids = dict(zip(texts, chat.encode_prompts(texts), strict=True))
        replies = chat.encode_replies(whole, [ids[prompt] for prompt in prompts])
    except UserError as error:
        raise Unscorable(str(error)) from error
    encoded = [
        Encoded(prompt.text, text if chat.keep_tail else text.rstrip(), ids[prompt], reply)
        for prompt, text, reply in zip(prompts, map(chat.for_server, whole), replies, strict=True)
    ]
    for number, encoding in enumerate(encoded, first):
        if max_length and len(encoding.ids) > max_length:
            raise TooManyTokens(
                f"conversation {number}: has {len(encoding.ids)} tokens, more than the limit of {max_length} "
                "(reward.max_length, or the model's own): shorten it"
            )
    return encoded


def score_what_fits(
    scorer: Scorer, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
) -> Array:
    """Return rewards, float32[conversations]; NaN for a conversation that is too long for the reward model.

    Without conversations the scorer is not called.

    Raises:
        UserError: as `scored` does, except for a conversation that is too long.
    """
    return score_heads_that_fit(scorer, conversations, progress)[:, 0]


def score_heads_that_fit(
    scorer: Scorer, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]]
) -> Array:
    """Return the columns of `score_heads`; NaN for a conversation that is too long for the reward model.

    Without conversations the scorer is not called.

    Raises:
        UserError: as `scored` does, except for a conversation that is too long.
    """
    scores = np.full((len(conversations), 1 + len(scorer.heads)), np.nan, np.float32)
    if not conversations:
        return scores
    try:
        return score_heads(scorer, conversations, progress)
    except TooManyTokens:
        for number, conversation in enumerate(conversations):
            try:
                scores[number] = score_heads(scorer, [conversation])
            except TooManyTokens:
                continue
        return scores


def score_heads(
    scorer: Scorer, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
) -> Array:
    """Return the reward of each conversation, then the score of each of `scorer.heads`, float32[conversations, 1 + heads].

    Raises:
        UserError: as `scored` does.
    """
    rewards = scored(scorer, conversations, progress)
    return np.column_stack([rewards, *(scorer.parts[name] for name in scorer.heads)]).astype(np.float32, copy=False)


# Scale of rewards: the model's own, or mean 0 and standard deviation 1 on its held-out data


class Scale:
    """Converts rewards between the model's own scale and the normalised one.

    With `normalise`, the mean and standard deviation come from the reward model's `config`, loaded from `path`.

    Raises:
        UserError: if `config` lacks them.
    """

    def __init__(self, config: Any, path: str, normalise: bool) -> None:
        self.mean, self.std = 0.0, 1.0
        if not normalise:
            return
        mean, std = (getattr(config, name, None) for name in ("mean", "std"))
        if mean is None or not std:
            raise UserError(f"reward.normalise=true: {path} has no mean and std of rewards in its config.json")
        self.mean, self.std = float(mean), float(std)

    def apply(self, rewards: np.ndarray) -> np.ndarray:
        """Return the model's rewards, float[n], on this scale, float32[n]."""
        return ((rewards - self.mean) / self.std).astype(np.float32)

    def undo(self, rewards: np.ndarray) -> np.ndarray:
        """Return rewards of this scale on the model's own scale."""
        return rewards * self.std + self.mean
