"""Feeds of training groups: the rows of a dataset, or groups collected round by round from the policy's own replies."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np

from psychocounsel.algo.base import Algorithm, checked_groups
from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Array, Group, reference_of
from psychocounsel.engine.references import Reference
from psychocounsel.engine.rounds.held_out import HeldOutReplies
from psychocounsel.engine.schedule import DataOrder
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import UserError
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import read_json

# The engine's services for an algorithm that collects its training groups (`algo.base.Context`).


class Collector:
    """Implements `algo.base.Context` for the groups of rounds or of a dataset; `reference` gives their log-probabilities."""

    def __init__(self, run: Run, stepper: Stepper, reference: Reference | None) -> None:
        self.run, self.stepper, self.reference = run, stepper, reference
        self.algorithm, self.world = stepper.algorithm, stepper.world
        self.rng = np.random.default_rng([run.config.seed, 0])
        rollout: Any = run.config.get("rollout") or {}
        self.max_tokens: int = rollout.get("max_tokens", 0)
        self.turns: int = rollout.turns if rollout.get("clients") else 1
        self.round = 0
        self.counts: dict[str, float] = {}
        self.notes: dict[str, float] = {}
        self.peaks: dict[str, float] = {}  # shared with `LoopState`, which sets it

    def begin(self, number: int) -> None:
        """Prepare to collect round `number`."""
        self.rng = np.random.default_rng([self.run.config.seed, 1 + number])
        self.round, self.counts, self.notes = number, {}, {}

    def note(self, name: str, value: float) -> None:
        self.notes[name] = float(value)

    def earlier(self, name: str) -> float | None:
        """Return a note of the previous round (`Context.earlier`), read from its file so that a resumed run gets the same value.

        Rounds that noted nothing, because they had no rewards, are passed over.

        Raises:
            UserError: if that round's file or this note is missing.
        """
        for number in range(self.round - 1, -1, -1):
            file = self.run.files.round(number).collected
            notes = self.world.broadcast(read_json(file) if self.run.is_main else None)
            if notes != {}:
                break
        else:
            return None
        if name not in (notes or {}):
            raise UserError(f"{file}: has no {name}, which this round needs: restore the file, or use another run_dir")
        return float(notes[name])

    def count(self, name: str, number: float) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def values(self, groups: list[Group]) -> list[list[Array]]:
        if self.algorithm.critic_kind == "shared":
            self.stepper.main.train(False)
            return self.stepper.per_token(groups, logprobs=False, values=True)
        critic = self.stepper.engines["critic"]
        critic.train(False)
        return self.stepper.per_token(groups, critic)

    def logprobs(self, model: str, groups: list[Group]) -> list[list[Array]]:
        """Return the log-probabilities of `groups` under `model` (`Context.logprobs`).

        Before its first step, the policy equals the reference. Reference log-probabilities that the groups already hold
        are then returned for the policy, too.

        Raises:
            UserError: for another model; if the algorithm asks for a reference but its `needs` does not name one, or asks
                after `collect` although the policy itself was the reference.
        """
        if model not in ("policy", "reference"):
            raise UserError(
                f'{type(self.algorithm).__name__}: ctx.logprobs({model!r}, ...): give "policy" or "reference"'
            )
        if model == "reference":
            if self.reference is None:
                kind = type(self.algorithm).__name__
                raise UserError(f"{kind}: asks for the reference model, so needs.models must name it")
            return self.reference.logprobs(groups)
        if self.stepper.untrained and (known := reference_of(groups)):
            return known
        self.stepper.engines["policy"].train(False)
        return self.stepper.per_token(groups)

    def collect_data(self, data: Dataset, visited: list[int], weights: str) -> None:
        """Let the algorithm collect the `visited` training rows and all held-out rows, and put the results into `data`.

        An offline dataset is treated as one round before the first step. `weights` is the hash of the policy's weights.
        """
        if self.reference is not None:
            self.reference.open(weights)
        collected = self._collect_offline([data.train[index] for index in visited])
        for index, group in zip(visited, collected, strict=True):
            data.train[index] = group
        if data.held_out:
            data.held_out = self._collect_offline(data.held_out)
        if self.reference is not None:
            self.reference.close()

    def batch_groups(self, groups: list[Group]) -> list[Group]:
        """Return the groups of a global batch for the loss (`Algorithm.batch_groups`)."""
        return checked_groups(self.algorithm, "batch_groups", self.algorithm.batch_groups(groups, self))

    def _collect_offline(self, groups: list[Group]) -> list[Group]:
        own = type(self.algorithm).collect_offline is not Algorithm.collect_offline
        collected = self.algorithm.collect_offline(groups, self)
        return checked_groups(self.algorithm, "collect_offline" if own else "collect", collected, len(groups))


# Feeds


class Feed(ABC):
    """Source of the groups of each step. All ranks call each method together."""

    steps: int
    holds_rows = False  # True if evaluations also measure the loss of held-out rows

    def start(self, weights: str) -> None:  # noqa: B027
        """Collect everything needed before the first step; `weights` is the hash of the policy's weights."""

    @abstractmethod
    def groups(self, step: int) -> list[Group]:
        """Return the groups of step `step`'s global batch (`step` counts from 0); [] if the round left none for it."""

    def metrics(self, step: int) -> dict[str, float]:
        """Return the metrics of the round that begins with step `step` (from 0); {} for all other steps."""
        return {}

    def evaluate(self, step: int) -> dict[str, float]:
        """Return metrics of the policy's replies to held-out prompts after `step` steps; {} if it writes none."""
        return {}

    def sample(self, step: int) -> str | None:
        """Return example replies as Markdown for the line of step `step` (from 1); None if there are no new ones."""
        return None

    def lengths(self) -> list[list[int]]:
        """Return the number of tokens of each group in each of the first steps; [] if not known in advance."""
        return []


class OfflineFeed(Feed):
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

    def evaluate(self, step: int) -> dict[str, float]:
        return self.replies.metrics(step) if self.replies else {}

    def lengths(self) -> list[list[int]]:
        steps = map(self.order.indices, range(min(self.steps, 50)))
        return [[self.data.train[index].tokens for index in indices] for indices in steps]


# Global batches of two kinds: groups of the round, and pairs of the dataset.


class MixedFeed(Feed):
    """Feeds each step the round's groups followed by pairs of the dataset."""

    def __init__(self, rounds: Feed, pairs: OfflineFeed) -> None:
        self.rounds, self.pairs, self.steps = rounds, pairs, rounds.steps

    def start(self, weights: str) -> None:
        self.rounds.start(weights)
        self.pairs.start(weights)

    def groups(self, step: int) -> list[Group]:
        return self.rounds.groups(step) + self.pairs.groups(step)

    def metrics(self, step: int) -> dict[str, float]:
        return self.rounds.metrics(step)

    def evaluate(self, step: int) -> dict[str, float]:
        return self.rounds.evaluate(step)

    def sample(self, step: int) -> str | None:
        return self.rounds.sample(step)


def mixed(rounds: Feed, data: Dataset, pairs: Collector) -> Feed:
    """Return `rounds` with as many of `data.pairs` in each step as the algorithm wants; `pairs` collects these pairs.

    Each epoch over the pairs has a shuffle of its own.
    """
    config = pairs.run.config
    count = pairs.algorithm.offline_groups(config.global_batch_size)
    order = DataOrder(len(data.pairs), count, rounds.steps * count / len(data.pairs), rounds.steps, config.seed)
    return MixedFeed(rounds, OfflineFeed(replace(data, train=data.pairs, held_out=[]), order, pairs))
