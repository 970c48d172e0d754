"""Base class of references; the reference is the model that an algorithm compares the policy with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from psychocounsel.data.group import Array, Group


class Reference(ABC):
    """Gives log-probabilities under the reference. All ranks call each method together, with the same groups."""

    def open(self, weights: str) -> None:  # noqa: B027
        """Prepare to collect a dataset before the first step; `weights` is the hash of the policy's weights."""

    @abstractmethod
    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        """Return float32[len] for each completion of each group."""

    def close(self) -> None:  # noqa: B027
        """End the collection of a dataset; after this, the policy may change."""
