"""Rewards of the pairs of an evaluation. One model is loaded at a time, and every rank scores its share of the pairs."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from psychocounsel.data.rows import Example, Message
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.distributed.world import World
from psychocounsel.reward.base import Scorer, scored
from psychocounsel.reward.encoding import score_what_fits

Bar = Callable[[range, str], Iterable[int]]


@dataclass(frozen=True)
class PairScores:
    """Rewards of n pairs by one model; NaN for a reply that is too long for the model.

    Attributes:
        name: the model's name.
        given: rewards as the scorer returns them (possibly normalised), chosen reply first, float32[n, 2].
        raw: the same without normalisation, float32[n, 2].
        reading: margins with the client's own speech, another client's and none, float[n] each, as
            `audit.reading.reward_margins` returns them; None if they are not computed.
    """

    name: str
    given: np.ndarray
    raw: np.ndarray
    reading: dict[str, np.ndarray] | None = None

    @property
    def margins(self) -> np.ndarray:
        """Unnormalised margins r_chosen - r_rejected, float64[n]."""
        return self.raw[:, 0].astype(np.float64) - self.raw[:, 1]


def free_memory(world: World) -> None:
    """Free the memory of a deleted scorer, so that the next scorer has room."""
    gc.collect()
    if world.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def pair_conversations(examples: Sequence[Example], system_prompt: str | None) -> list[list[Message]]:
    """Return two conversations for each pair: with the chosen reply, then with the rejected one."""
    return [
        [*with_system_prompt(example.prompt, system_prompt), {"role": "assistant", "content": reply}]
        for example in examples
        for reply in example.replies[:2]
    ]


def score_shared(
    scorer: Scorer, conversations: Sequence[list[Message]], world: World, bar: Bar, title: str, must_fit: bool = False
) -> np.ndarray:
    """Return the rewards of all conversations, float32[n], on every rank. Each rank scores its share; `bar` shows progress.

    Conversations 2k and 2k + 1 are scored on one rank because those of `pair_conversations` share their prompt. A
    conversation that is too long for the model gets NaN.

    Raises:
        UserError: if `must_fit` is True and a conversation is too long for the model.
    """
    rows = np.arange(len(conversations)) // 2 % world.size
    own = [conversations[row] for row in np.flatnonzero(rows == world.rank)]

    def progress(steps: range) -> Iterable[int]:
        return bar(steps, title)

    share = scored(scorer, own, progress) if must_fit else score_what_fits(scorer, own, progress)
    scores = np.empty(len(conversations), np.float32)
    for rank, part in enumerate(world.gather(share)):
        scores[rows == rank] = part
    return scores
