"""Learning rate and data order as pure functions of the step, so that a resumed run needs no saved state for them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from omegaconf import DictConfig

from psychocounsel.algo.base import Algorithm


def learning_rate(algorithm: Algorithm, step: int, total: int) -> float:
    """Return the learning rate of optimizer step `step` (from 0) of `total`; it is above 0 from the first step on."""
    warmup = math.ceil(round(algorithm.warmup * total, 6))
    if step < warmup:
        return algorithm.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[algorithm.schedule]
    return algorithm.lr * (algorithm.min_lr_ratio + (1 - algorithm.min_lr_ratio) * shape)


@dataclass(frozen=True)
class DataOrder:
    """Order of the rows over the steps: one shuffle per epoch; batches cross epoch borders, and the last may be smaller.

    The length of the run is `epochs`, `max_steps`, or the smaller of the two. In each epoch, the last `fresh` of the `rows`
    are others: those of one of `sets` sets, which follow each other in the dataset (`Dataset.fresh`).
    """

    rows: int
    batch_size: int
    epochs: float | None
    max_steps: int | None
    seed: int
    fresh: int = 0
    sets: int = 1

    @property
    def steps(self) -> int:
        return _shorter(self._all_rows and math.ceil(self._all_rows / self.batch_size), self.max_steps)

    @property
    def _all_rows(self) -> int | None:
        """Number of rows in all epochs together; None if only `max_steps` gives the length."""
        return None if self.epochs is None else max(1, round(self.epochs * self.rows))

    def indices(self, step: int) -> list[int]:
        """Return the row numbers of step `step` (from 0)."""
        start = step * self.batch_size
        stop = start + self.batch_size if self._all_rows is None else min(start + self.batch_size, self._all_rows)
        return [self._index(*divmod(position, self.rows)) for position in range(start, stop)]

    def _index(self, epoch: int, place: int) -> int:
        index = int(_shuffle(self.seed, epoch, self.rows)[place])
        return index if index < self.rows - self.fresh else index + self.fresh * (epoch % self.sets)

    def visited(self) -> list[int]:
        """Return the numbers of all rows that some step trains on, each once, in ascending order."""
        return sorted({index for step in range(self.steps) for index in self.indices(step)})


@dataclass(frozen=True)
class RoundOrder:
    """Order of an online run: the prompts of each round, and the groups of each step.

    A round takes `prompts` prompts and trains `passes` times over them, `batch_size` prompts a step. If the algorithm
    collects more or fewer groups than prompts, they are spread evenly over the steps of a pass.
    """

    rows: int
    prompts: int
    batch_size: int
    passes: int
    epochs: float | None
    max_steps: int | None
    seed: int

    @property
    def _per_pass(self) -> int:
        return math.ceil(self.prompts / self.batch_size)

    @property
    def steps_per_round(self) -> int:
        return self.passes * self._per_pass

    @property
    def steps(self) -> int:
        if self.epochs is None:
            return _shorter(None, self.max_steps)
        return _shorter(math.ceil(round(self.epochs * self.rows) / self.prompts) * self.steps_per_round, self.max_steps)

    @property
    def rounds(self) -> int:
        return self.round_of(self.steps - 1) + 1

    def round_of(self, step: int) -> int:
        return step // self.steps_per_round

    def indices(self, number: int) -> list[int]:
        """Return the row numbers of round `number` (from 0)."""
        places = range(number * self.prompts, (number + 1) * self.prompts)
        return [int(_shuffle(self.seed, place // self.rows, self.rows)[place % self.rows]) for place in places]

    def further(self, number: int) -> Iterator[int]:
        """Yield all row numbers that round `number` does not have, shuffled, for prompts that replace some of its own."""
        own = {*self.indices(number)}
        for row in np.random.default_rng([self.seed, number, self.rows]).permutation(self.rows):
            if int(row) not in own:
                yield int(row)

    def part(self, step: int, count: int) -> list[int]:
        """Return the numbers of the groups that step `step` trains on; its round has `count` groups.

        Each pass has a shuffle of its own.
        """
        turn, place = divmod(step % self.steps_per_round, self._per_pass)
        shuffled = np.random.default_rng([self.seed, self.round_of(step), turn]).permutation(count)
        return [int(index) for index in np.array_split(shuffled, self._per_pass)[place]]


def data_order(config: DictConfig, rows: int, fresh: int = 0, sets: int = 1) -> DataOrder:
    """Return the order of `rows` rows in a run without rollouts, of which each epoch replaces `fresh`."""
    return DataOrder(rows, config.global_batch_size, config.epochs, config.max_steps, config.seed, fresh, sets)


def round_order(config: DictConfig, algorithm: Algorithm, rows: int) -> RoundOrder:
    """Return the rounds of an algorithm with rollouts on `rows` prompts."""
    plan = algorithm.round
    assert plan is not None, "the check of the configuration requires it"
    batch = config.global_batch_size - algorithm.offline_groups(config.global_batch_size)
    length = (config.epochs, config.max_steps, config.seed)
    return RoundOrder(rows, plan.prompts or batch, batch, plan.passes, *length)


def steps_of(config: DictConfig, algorithm: Algorithm, rows: int) -> int:
    """Return the number of optimizer steps of a run on `rows` training groups."""
    return (round_order(config, algorithm, rows) if algorithm.needs.rollouts else data_order(config, rows)).steps


def _shorter(of_epochs: int | None, max_steps: int | None) -> int:
    """Return the number of steps, at least 1: from the epochs, `max_steps`, or the smaller of both if both are given."""
    return max(1, min(steps for steps in (of_epochs, max_steps) if steps is not None))


@lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step's random numbers (dropout) on a rank; a resume therefore needs no generator state."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
