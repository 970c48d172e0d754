"""The reference: the policy that an algorithm compares the trained one with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from psychocounsel.data.group import Array, Group


class Reference(ABC):
    """Log-probabilities under the reference. All ranks call each method together, with the same groups."""

    def open(self, weights: str) -> None:  # noqa: B027
        """Get ready to collect a dataset, before the first step; `weights` tells the policy's weights from others."""

    @abstractmethod
    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        """float32[len] per completion of each group."""

    def close(self) -> None:  # noqa: B027
        """The dataset is collected, and the policy begins to change."""
