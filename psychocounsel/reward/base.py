"""What scores replies. Everything that asks for rewards asks a Scorer, wherever its model runs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from psychocounsel.data.rows import Message

Conversation = Sequence[Message]  # ends with the reply that is scored, of role assistant


class Scorer(Protocol):
    """One that is made of several scorers has an attribute `parts`, too: the rewards that each gave last, by name.

    One with frozen models in this process may name them in `models`: with `rollout.offload_idle` they are on the GPU only
    while it scores.
    """

    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """float32[n]: the reward of the last message of each conversation, in order.

        `progress` may wrap the loop over parts of them.

        Raises:
            UserError: for a conversation that does not end with a reply, or that the model cannot read whole.
        """
