"""Several scorers as one: what pleases one reward model by its faults need not please them all."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from psychocounsel.reward.base import Conversation, Scorer


class EnsembleScorer:
    """The mean of the rewards of `members`, by name, or with `combine="min"` the least of them.

    `parts` holds what each member gave the conversations that were scored last, float32[n].
    """

    def __init__(self, members: Mapping[str, Scorer], combine: str) -> None:
        self.members, self.combine = members, combine
        self.models = [model for member in members.values() for model in getattr(member, "models", [])]
        self.parts: dict[str, np.ndarray] = {}

    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """As Scorer says."""
        self.parts = {name: member.score(conversations, progress) for name, member in self.members.items()}
        rewards = np.stack([*self.parts.values()])
        return rewards.min(0) if self.combine == "min" else rewards.mean(0, dtype=np.float64).astype(np.float32)
