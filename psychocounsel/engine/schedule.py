"""Learning rate and data order: pure functions of the step, so that a resumed run needs no state for them."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from psychocounsel.algo.base import Algorithm


def learning_rate(algorithm: Algorithm, step: int, total: int) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`; the first step already learns."""
    warmup = math.ceil(round(algorithm.warmup * total, 6))
    if step < warmup:
        return algorithm.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[algorithm.schedule]
    return algorithm.lr * (algorithm.min_lr_ratio + (1 - algorithm.min_lr_ratio) * shape)


@dataclass(frozen=True)
class DataOrder:
    """Which rows each step sees: one shuffle per epoch, read on across epoch borders; the last step may be smaller."""

    rows: int
    batch_size: int
    epochs: float
    max_steps: int | None
    seed: int

    @property
    def steps(self) -> int:
        wanted = math.ceil(round(self.epochs * self.rows) / self.batch_size)
        return max(1, min(wanted, self.max_steps or wanted))

    def indices(self, step: int) -> list[int]:
        """Row numbers of step `step` (from 0)."""
        start = step * self.batch_size
        stop = min(start + self.batch_size, max(1, round(self.epochs * self.rows)))
        return [
            int(_shuffle(self.seed, position // self.rows, self.rows)[position % self.rows])
            for position in range(start, stop)
        ]

    def visited(self) -> list[int]:
        """Rows that any step sees, each once, in order."""
        return sorted({index for step in range(self.steps) for index in self.indices(step)})


@dataclass(frozen=True)
class RoundOrder:
    """Which prompts each round takes, and which of its groups each step trains on.

    A round takes `prompts` prompts and has steps for `batch_size` of them at a time, `passes` times over. However many
    groups are collected, they are spread evenly over the steps of a pass.
    """

    rows: int
    prompts: int
    batch_size: int
    passes: int
    epochs: float
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
        wanted = math.ceil(round(self.epochs * self.rows) / self.prompts) * self.steps_per_round
        return max(1, min(wanted, self.max_steps or wanted))

    @property
    def rounds(self) -> int:
        return self.round_of(self.steps - 1) + 1

    def round_of(self, step: int) -> int:
        return step // self.steps_per_round

    def indices(self, number: int) -> list[int]:
        """Row numbers of round `number` (from 0)."""
        places = range(number * self.prompts, (number + 1) * self.prompts)
        return [int(_shuffle(self.seed, place // self.rows, self.rows)[place % self.rows]) for place in places]

    def part(self, step: int, count: int) -> list[int]:
        """Which of a round's `count` groups step `step` trains on: a shuffle for each pass."""
        turn, place = divmod(step % self.steps_per_round, self._per_pass)
        shuffled = np.random.default_rng([self.seed, self.round_of(step), turn]).permutation(count)
        return [int(index) for index in np.array_split(shuffled, self._per_pass)[place]]


@lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of a step's random numbers (dropout): set anew each step, so that resuming needs no generator state."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
