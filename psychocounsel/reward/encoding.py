"""Conversations as a reward model reads them: by its own chat template and tokenizer, wherever it runs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from psychocounsel.data.group import Array
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.errors import UserError
from psychocounsel.reward.base import Conversation, Scorer


class TooManyTokens(UserError):
    """A conversation is longer than the reward model reads."""


@dataclass
class Encoded:
    """A conversation as text for a server that tokenises it, and as token ids, int32[prompt] and int32[reply]."""

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
    """`first` is the number that errors give the first of them.

    Raises:
        UserError: for a conversation that does not end with a reply.
        TooManyTokens: for one of more than `max_length` tokens.
    """
    for number, conversation in enumerate(conversations, first):
        if not conversation or conversation[-1]["role"] != "assistant":
            raise UserError(f"conversation {number}: does not end with a reply (a message of role assistant)")
    prompts = [chat.render(conversation[:-1]) for conversation in conversations]
    whole = [chat.render(conversation[:-1], conversation[-1]["content"]) for conversation in conversations]
    texts = list(dict.fromkeys(prompts))
    ids = dict(zip(texts, chat.encode_prompts(texts), strict=True))
    replies = chat.encode_replies(whole, [ids[prompt] for prompt in prompts])
    encoded = [
        Encoded(prompt.text, text if chat.keep_tail else text.rstrip(), ids[prompt], reply)
        for prompt, text, reply in zip(prompts, map(chat.for_server, whole), replies, strict=True)
    ]
    for number, each in enumerate(encoded, first):
        if max_length and len(each.ids) > max_length:
            raise TooManyTokens(
                f"conversation {number}: has {len(each.ids)} tokens, and reward.max_length={max_length} is what the reward "
                "model reads: shorten it"
            )
    return encoded


def score_what_fits(
    scorer: Scorer, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
) -> Array:
    """Rewards, float32[conversations]; NaN where a conversation is too long for the reward model. None are asked of none.

    Raises:
        UserError: for a reward that is not finite.
    """
    if not conversations:
        return np.zeros(0, np.float32)
    try:
        return _finite(scorer.score(conversations, progress))
    except TooManyTokens:
        rewards = np.full(len(conversations), np.nan, np.float32)
        for number, conversation in enumerate(conversations):
            try:
                rewards[number] = _finite(scorer.score([conversation]))[0]
            except TooManyTokens:
                continue
        return rewards


def _finite(rewards: Array) -> Array:
    if not np.isfinite(rewards).all():
        raise UserError("the reward model gives rewards that are not finite: try reward.dtype=fp32, or another model")
    return rewards
