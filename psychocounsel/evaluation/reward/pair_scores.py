"""What a reward model gives the pairs of an evaluation: one model is open at a time, and every rank scores its share."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from psychocounsel.data.rows import Example, Message
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.distributed.world import World
from psychocounsel.reward.base import Scorer
from psychocounsel.reward.encoding import score_what_fits

Bar = Callable[[range, str], Iterable[int]]


@dataclass(frozen=True)
class PairScores:
    """Rewards of n pairs by one model, float32[n, 2], chosen first: as the scorer gives them, and on the model's own scale.

    NaN for a reply that is too long for the model. `reading`: margins, float[n], with the own speech and others, as
    `audit.reading.reward_margins` gives them.
    """

    name: str
    given: np.ndarray
    raw: np.ndarray
    reading: dict[str, np.ndarray] | None = None

    @property
    def margins(self) -> np.ndarray:
        """float64[n], r_chosen - r_rejected, of unnormalised rewards."""
        return self.raw[:, 0].astype(np.float64) - self.raw[:, 1]


def free_memory(world: World) -> None:
    """Give back what a scorer held that nothing refers to any more, so that the next one has room."""
    gc.collect()
    if world.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def pair_conversations(examples: Sequence[Example], system_prompt: str | None) -> list[list[Message]]:
    """Both conversations of each pair, chosen first."""
    return [
        [*with_system_prompt(example.prompt, system_prompt), {"role": "assistant", "content": reply}]
        for example in examples
        for reply in example.replies[:2]
    ]


def score_shared(
    scorer: Scorer, conversations: Sequence[list[Message]], world: World, bar: Bar, title: str, must_fit: bool = False
) -> np.ndarray:
    """float32[n] rewards on every rank, each of which scores its share and shows it by `bar`.

    Pairs of neighbours stay on one rank, since they share their prompt. A conversation that is too long is NaN.

    Raises:
        UserError: with `must_fit`, for a conversation that is too long for the model.
    """
    rows = np.arange(len(conversations)) // 2 % world.size
    own = [conversations[row] for row in np.flatnonzero(rows == world.rank)]

    def progress(steps: range) -> Iterable[int]:
        return bar(steps, title)

    share = scorer.score(own, progress) if must_fit else score_what_fits(scorer, own, progress)
    scores = np.empty(len(conversations), np.float32)
    for rank, part in enumerate(world.gather(share)):
        scores[rows == rank] = part
    return scores
