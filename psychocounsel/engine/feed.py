"""Feeds of training groups: the rows of a dataset, or groups collected round by round from the policy's own replies."""

from typing import Protocol

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.rounds.held_out import HeldOutReplies
from psychocounsel.engine.schedule import DataOrder


class Feed(Protocol):
    """Source of the groups of each step. All ranks call each method together."""

    steps: int
    holds_rows: bool  # True if evaluations also measure the loss of held-out rows

    def start(self, weights: str) -> None:
        """Collect everything needed before the first step; `weights` is the hash of the policy's weights."""

    def groups(self, step: int) -> list[Group]:
        """Return the groups of step `step`'s global batch (`step` counts from 0); [] if the round left none for it."""

    def metrics(self, step: int) -> dict[str, float]:
        """Return the metrics of the round that begins with step `step` (from 0); {} for all other steps."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Return metrics of the policy's replies to held-out prompts after `step` steps; {} if it writes none."""

    def sample(self, step: int) -> str | None:
        """Return example replies as Markdown for the line of step `step` (from 1); None if there are no new ones."""

    def lengths(self) -> list[list[int]]:
        """Return the number of tokens of each group in each of the first steps; [] if not known in advance."""


class OfflineFeed:
    """Feeds rows of a dataset in the order of `DataOrder`; `replies` measures the policy's own replies at evaluations."""

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
