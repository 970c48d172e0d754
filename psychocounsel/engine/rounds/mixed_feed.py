"""Global batches of two kinds: groups of the round, and pairs of the dataset."""

from dataclasses import replace

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.feed import Feed, OfflineFeed
from psychocounsel.engine.schedule import DataOrder


class MixedFeed:
    """Feeds each step the round's groups followed by pairs of the dataset. Everything else delegates to `rounds`."""

    holds_rows = False

    def __init__(self, rounds: Feed, pairs: OfflineFeed) -> None:
        self.rounds, self.pairs, self.steps = rounds, pairs, rounds.steps
        self.metrics, self.evaluate = rounds.metrics, rounds.evaluate
        self.sample, self.lengths = rounds.sample, rounds.lengths

    def start(self, weights: str) -> None:
        self.rounds.start(weights)
        self.pairs.start(weights)

    def groups(self, step: int) -> list[Group]:
        return self.rounds.groups(step) + self.pairs.groups(step)


def mixed(rounds: Feed, data: Dataset, pairs: Collector) -> Feed:
    """Return `rounds` with as many of `data.pairs` in each step as the algorithm wants; `pairs` collects these pairs.

    Each epoch over the pairs has a shuffle of its own.
    """
    config = pairs.run.config
    count = pairs.algorithm.offline_groups(config.global_batch_size)
    order = DataOrder(len(data.pairs), count, rounds.steps * count / len(data.pairs), rounds.steps, config.seed)
    return MixedFeed(rounds, OfflineFeed(replace(data, train=data.pairs, held_out=[]), order, pairs))
