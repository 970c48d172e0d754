"""What the loop trains on: the rows of a dataset, or round by round what is collected of the policy's own replies."""

from typing import Protocol

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.rounds.held_out import HeldOutReplies
from psychocounsel.engine.schedule import DataOrder


class Feed(Protocol):
    """All ranks call each method together."""

    steps: int
    holds_rows: bool  # whether the loss of held-out rows is measured, too

    def start(self, weights: str) -> None:
        """Collect what is collected before the first step; `weights` tells the policy's weights from others."""

    def groups(self, step: int) -> list[Group]:
        """The groups of the global batch of step `step` (from 0); none if a round left nothing for it."""

    def metrics(self, step: int) -> dict[str, float]:
        """What there is to say of a round with its first step."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Metrics of replies to held-out prompts after `step` steps; none where the policy writes none."""

    def sample(self, step: int) -> str | None:
        """Some replies to show with the line of step `step` (from 1), as Markdown; None where there is nothing new."""

    def lengths(self) -> list[list[int]]:
        """Tokens of each group of the first steps, where they are known."""


class OfflineFeed:
    """Rows of a dataset, in the order of `DataOrder`; `replies` measures the policy's own replies at evaluations."""

    holds_rows = True

    def __init__(
        self, data: Dataset, order: DataOrder, collector: Collector, replies: HeldOutReplies | None = None
    ) -> None:
        self.data, self.order, self.collector, self.replies = data, order, collector, replies
        self.steps = order.steps

    def start(self, weights: str) -> None:
        self.collector.collect_data(self.data, self.order.visited(), weights)

    def groups(self, step: int) -> list[Group]:
        return [self.data.train[index] for index in self.order.indices(step)]

    def metrics(self, step: int) -> dict[str, float]:
        return {}

    def evaluate(self, step: int) -> dict[str, float]:
        return self.replies.metrics(step) if self.replies else {}

    def sample(self, step: int) -> str | None:
        return None

    def lengths(self) -> list[list[int]]:
        steps = map(self.order.indices, range(min(self.steps, 50)))
        return [[self.data.train[index].tokens for index in indices] for indices in steps]
