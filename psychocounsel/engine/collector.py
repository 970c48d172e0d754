"""The engine's services for an algorithm that collects its training groups (`algo.base.Context`)."""

import numpy as np

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Array, Group, reference_of
from psychocounsel.engine.references.base import Reference
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import UserError
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import read_json


class Collector:
    """Implements `algo.base.Context` for the groups of rounds or of a dataset; `reference` gives their log-probabilities."""

    def __init__(self, run: Run, stepper: Stepper, reference: Reference | None) -> None:
        self.run, self.stepper, self.reference = run, stepper, reference
        self.algorithm, self.world = stepper.algorithm, stepper.world
        self.rng = np.random.default_rng([run.config.seed, 0])
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

        Raises:
            UserError: if the previous round's file or this note is missing.
        """
        if not self.round:
            return None
        file = self.run.files.round(self.round - 1).collected
        notes = self.world.broadcast(read_json(file) if self.run.is_main else None) or {}
        if name not in notes:
            raise UserError(f"{file}: has no {name}, which this round needs: restore the file, or use another run_dir")
        return float(notes[name])

    def count(self, name: str, number: float) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def values(self, groups: list[Group]) -> list[list[Array]]:
        batch = self.run.config.global_batch_size
        if self.algorithm.critic_kind == "shared":
            self.stepper.main.train(False)
            return self.stepper.per_token(groups, batch=batch, logprobs=False, values=True)
        critic = self.stepper.engines["critic"]
        critic.train(False)
        return self.stepper.per_token(groups, critic, batch)

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
        return self.stepper.per_token(groups, batch=self.run.config.global_batch_size)

    def collect_data(self, data: Dataset, visited: list[int], weights: str) -> None:
        """Let the algorithm collect the `visited` training rows and all held-out rows, and put the results into `data`.

        An offline dataset is treated as one round before the first step. `weights` is the hash of the policy's weights.
        """
        if self.reference is not None:
            self.reference.open(weights)
        collected = self.algorithm.collect_offline([data.train[index] for index in visited], self)
        for index, group in zip(visited, collected, strict=True):
            data.train[index] = group
        if data.held_out:
            data.held_out = self.algorithm.collect_offline(data.held_out, self)
        if self.reference is not None:
            self.reference.close()
