"""Global batches of both: groups of the round, and beside them pairs of the data set."""

from dataclasses import replace

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.feed import Feed, OfflineFeed
from psychocounsel.engine.schedule import DataOrder


class MixedFeed:
    """What `rounds` gives for a step, and after it what `pairs` give; all else is as in rounds."""

    def __init__(self, rounds: Feed, pairs: OfflineFeed) -> None:
        self.rounds, self.pairs, self.steps = rounds, pairs, rounds.steps
        self.metrics, self.evaluate = rounds.metrics, rounds.evaluate
        self.sample, self.lengths = rounds.sample, rounds.lengths

    def start(self, weights: str) -> None:
        self.rounds.start(weights)
        self.pairs.start(weights)

    def groups(self, step: int) -> list[Group]:
        return self.rounds.groups(step) + self.pairs.groups(step)


def mixed(rounds: Feed, data: Dataset, collector: Collector) -> Feed:
    """`rounds`, with as many of `data.pairs` in each step as the algorithm wants; epochs over them are shuffled anew."""
    config = collector.run.config
    count = collector.algorithm.offline_groups(config.global_batch_size)
    if not count:
        return rounds
    order = DataOrder(len(data.pairs), count, rounds.steps * count / len(data.pairs), rounds.steps, config.seed)
    return MixedFeed(rounds, OfflineFeed(replace(data, train=data.pairs, held_out=[]), order, collector))
