"""What an algorithm sees of the engine while it collects what to train on (`algo.base.Context`)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from psychocounsel.algo.base import Algorithm
from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Array, Group, reference_of
from psychocounsel.distributed.world import World
from psychocounsel.engine.references.cached import CachedReference, reference_identity
from psychocounsel.engine.step import Stepper
from psychocounsel.engine.zero import Engine
from psychocounsel.errors import UserError
from psychocounsel.model.packed import PackedModel
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import read_json


class Collector:
    """`alive` is called on all ranks together, often; it may raise Stopped."""

    def __init__(
        self, run: Run, algorithm: Algorithm, stepper: Stepper, world: World, alive: Callable[[], None]
    ) -> None:
        self.run, self.algorithm, self.stepper, self.world, self.alive = run, algorithm, stepper, world, alive
        self.rng = np.random.default_rng([run.config.seed, 0])
        self.round = 0
        self.counts: dict[str, float] = {}
        self.notes: dict[str, float] = {}
        self.peaks: dict[str, float] = {}  # of the loop's state, which owns it
        self.frozen: PackedModel | None = None  # the reference, where it is asked for while the policy changes
        self.resident: AbstractContextManager[Any] = nullcontext()  # what to ask it within
        self._reference: CachedReference | None = None

    @property
    def reference_is_initial(self) -> bool:
        """Whether there is a reference, and it is the policy before training."""
        named = getattr(self.algorithm, "reference", "initial")
        return "reference" in self.algorithm.needs.models and named == "initial"

    def begin(self, number: int) -> None:
        """Get ready to collect round `number`."""
        self.rng = np.random.default_rng([self.run.config.seed, 1 + number])
        self.round, self.counts, self.notes = number, {}, {}

    def note(self, name: str, value: float) -> None:
        self.notes[name] = float(value)

    def earlier(self, name: str) -> float | None:
        """Context.earlier, from what the round before has on disk: a run that goes on finds the same.

        Raises:
            UserError: if it is there no more.
        """
        if not self.round:
            return None
        file = self.run.files.round(self.round - 1).collected
        notes = self.world.broadcast(read_json(file) if self.run.is_main else None) or {}
        if name not in notes:
            raise UserError(f"{file}: has no {name}, with which this round begins: restore it, or use another run_dir")
        return float(notes[name])

    def values(self, groups: list[Group]) -> list[list[Array]]:
        if self.algorithm.value_head:
            self.stepper.main.train(False)
            return self._in_steps(groups, None, logprobs=False, values=True)
        critic: Engine = self.stepper.engines["critic"]
        critic.train(False)
        return self._in_steps(groups, critic)

    def _in_steps(self, groups: list[Group], model: PackedModel | Engine | None, **asked: bool) -> list[list[Array]]:
        size, results = self.run.config.global_batch_size, list[list[Array]]()
        for start in range(0, len(groups), size):
            results += self.stepper.per_token(groups[start : start + size], model, **asked)
        return results

    def count(self, name: str, number: float) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def collect(self, data: Dataset, visited: list[int], weights: str) -> None:
        """Put into `data` what the algorithm makes of the `visited` training rows and of all held-out rows.

        Offline data are the one round, before the first step; `weights` tells the policy's weights from others.
        """
        if "reference" in self.algorithm.needs.models:
            identity = reference_identity(self.run.config, self.algorithm, weights, self.world.device)
            compute = partial(self._compute, "reference")
            self._reference = CachedReference(self.run, self.world, identity, compute, self.alive)
        collected = self.algorithm.collect_offline([data.train[index] for index in visited], self)
        for index, group in zip(visited, collected, strict=True):
            data.train[index] = group
        if data.held_out:
            data.held_out = self.algorithm.collect_offline(data.held_out, self)
        if self._reference is not None:
            self._reference.report()
            self._reference = None  # what the policy says later is not for the cache

    def logprobs(self, model: str, groups: list[Group]) -> list[list[Array]]:
        """Context.logprobs; the reference is the policy before its first step, or without its adapters."""
        if model == "reference" and self._reference is not None:
            return self._reference(groups)
        if model == "reference" and not self.reference_is_initial:
            model = "policy"  # as it is when the round begins, which is now
        if model == "policy" and self.stepper.untrained and (known := reference_of(groups)):
            return known
        return self._compute(model, groups)

    def _compute(self, model: str, groups: list[Group]) -> list[list[Array]]:
        policy: Engine = self.stepper.engines["policy"]
        # What goes into the cache comes from the engine, which has not begun to train then.
        frozen = self.frozen if model == "reference" and self._reference is None else None
        if (
            model == "reference"
            and policy.module.adapter is None
            and not (frozen or self._reference or self.stepper.untrained)
        ):
            raise RuntimeError("reference log-probabilities are computed before the policy changes")
        policy.train(False)
        off = policy.module.adapters_off() if model == "reference" else nullcontext()
        with off, self.resident if frozen else nullcontext():
            return self._in_steps(groups, frozen)
