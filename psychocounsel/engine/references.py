"""References, whose log-probabilities a loss compares with the policy's: computed anew, or taken from the cache on disk."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from psychocounsel.data.group import Array, Group
from psychocounsel.engine.engines import build_reference
from psychocounsel.engine.reference_store import CacheFiller, Order, ReferenceStore, Unit, make_units, row_key
from psychocounsel.engine.rounds.offloading import on_device
from psychocounsel.engine.step import Stepper
from psychocounsel.engine.telemetry.progress import Progress
from psychocounsel.errors import UserError
from psychocounsel.model.gpu import chosen_kernels
from psychocounsel.model.load import model_dtype
from psychocounsel.model.packed import PackedModel
from psychocounsel.rollout.base import training_temperature
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import PACKAGE
from psychocounsel.storage.hashes import code_id


class Reference(ABC):
    """Gives log-probabilities under the reference. All ranks call each method together, with the same groups."""

    def open(self, weights: str) -> None:  # noqa: B027
        """Prepare to collect a dataset before the first step; `weights` is the hash of the policy's weights."""

    @abstractmethod
    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        """Return float32[trained tokens] for each completion of each group."""

    def close(self) -> None:  # noqa: B027
        """End the collection of a dataset; after this, the policy may change."""


# References that compute log-probabilities on request


class RoundStart(Reference):
    """The policy as it is now. A round asks before its first step, so this is the policy at the round's start."""

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        self.stepper.main.train(False)
        return self.stepper.per_token(groups)


class AdaptersOff(RoundStart):
    """The policy with its adapters off, which equals the policy before training at any time and needs no weights of its own.

    A policy without adapters is its own reference only before its first step.
    """

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        with self.stepper.main.module.adapters_off():
            return super().logprobs(groups)


class FrozenModel(Reference):
    """A frozen model in addition to the trained one: a copy of the policy before training, or a teacher.

    `on_device`: the context in which the copy is on the GPU.
    """

    def __init__(self, stepper: Stepper, model: PackedModel, on_device: AbstractContextManager[Any]) -> None:
        self.stepper, self.model, self.on_device = stepper, model, on_device

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        with self.on_device:
            return self.stepper.per_token(groups, self.model)


# References of offline data: from the cache, or computed into it by all ranks together

_POLL_SECONDS = 0.5
_DECIDING = (
    "model/**/*.py",
    "data/batch.py",
    "data/layout.py",
    "engine/step.py",
    "engine/zero.py",
)  # code that computes the values


def reference_identity(config: DictConfig, weights: str, device: torch.device) -> dict[str, Any]:
    """Return everything that reference log-probabilities depend on, except the tokens.

    The adapter is excluded because it is off. The ZeRO stage is excluded because every stage computes in the same dtype.
    """
    dtype, quantise = model_dtype(config.model, device), config.model.quantise
    libraries = ["torch", "transformers", *(["bitsandbytes"] if quantise else [])]
    kernels = chosen_kernels(config.model.kernels, device.type)
    libraries += ["liger-kernel"] if kernels == "liger" else []
    return {
        "weights": weights,
        "dtype": str(dtype),
        "quantise": quantise,
        "kernels": kernels,
        "temperature": training_temperature(config),
        "device": device.type,
        "versions": {name: version(name) for name in libraries},
        "code": code_id(*(file for pattern in _DECIDING for file in PACKAGE.glob(pattern))),
    }


class CachedReference(Reference):
    """The reference of a dataset: values from a cache on disk, or computed by `source` before the first step and cached.

    Rank 0 holds the cache and chooses the groups to compute; all ranks compute them together. All ranks call `alive`
    before each batch and while another job computes values that this run needs.
    """

    def __init__(self, run: Run, stepper: Stepper, source: Reference, alive: Callable[[], None]) -> None:
        self.run, self.stepper, self.source, self.alive = run, stepper, source, alive
        self.world, self.config = stepper.world, run.config
        self.store: ReferenceStore | None = None
        self.is_open = False
        self.progress = Progress(run.is_main)
        self.replies = self.computed = 0

    def open(self, weights: str) -> None:
        self.is_open = True
        if self.run.is_main:
            identity = reference_identity(self.config, weights, self.world.device)
            of = f"{self.config.model.path} in {identity['quantise'] or identity['dtype'].removeprefix('torch.')}"
            self.store = ReferenceStore(self.config.paths.cache, identity, of, self.run.say)

    def close(self) -> None:
        """Print the number of replies and how many of them the cache had; later values are not cached."""
        self.is_open = False
        if self.replies:
            cached = self.replies - self.computed
            self.run.say(f"reference log-probabilities: {cached} replies from the cache, {self.computed} computed")

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        """Return float32[trained tokens] for each completion of each group.

        Raises:
            UserError: after `close`, if the policy itself was the reference.
        """
        if not self.is_open:
            if self.stepper.main.module.adapter is None:
                kind = type(self.stepper.algorithm).__name__
                raise UserError(
                    f"{kind}: the policy has changed and no longer equals the reference; ask for the reference only in `collect`"
                )
            return self.source.logprobs(groups)
        keys = [
            [row_key(group.prompt_ids, reply.ids, reply.trained) for reply in group.completions] for group in groups
        ]
        units = make_units(groups, keys, self.config.micro_batch_tokens)
        filler = CacheFiller(self.store, units) if self.store is not None else None
        try:
            for order in self.progress.bar(self._orders(filler), "reference log-probabilities"):
                rows = self.source.logprobs([units[number].group(positions) for number, positions in order])
                self.computed += sum(map(len, rows))
                if filler is not None:
                    filler.add(order, rows)
        finally:
            if filler is not None:
                filler.close()
        known = self._share(filler, units)
        self.replies += len(known)
        return [[known[key] for key in keys_of_group] for keys_of_group in keys]

    def _orders(self, filler: CacheFiller | None) -> Iterator[Order]:
        """Yield the batches that rank 0 chooses, the same on every rank."""
        is_announced = False
        while True:
            self.alive()
            order = self.world.broadcast(filler.next(self.config.global_batch_size) if filler else None)
            if order is None:
                return
            if order:
                yield order
                continue
            if not is_announced:
                self.run.say("waiting for another process that computes reference log-probabilities of this run")
            is_announced = True
            time.sleep(_POLL_SECONDS)

    def _share(self, filler: CacheFiller | None, units: Sequence[Unit]) -> dict[bytes, Array]:
        """Return rank 0's values on every rank."""
        names = [key for unit in units for key in unit.keys]
        ends = np.cumsum([reply.trained_tokens for unit in units for reply in unit.replies], dtype=np.int64)
        flat = np.concatenate([filler.known[name] for name in names]) if filler and names else None
        rows = np.split(self.world.broadcast_floats(flat, int(ends[-1]) if names else 0), ends[:-1])
        return dict(zip(names, rows, strict=False))


# Choice of a run's reference


def choose_reference(run: Run, stepper: Stepper, alive: Callable[[], None], rounds: bool) -> Reference | None:
    """Return the reference for the groups of rounds, or of a dataset; None for an algorithm without a reference.

    A dataset is compared before the first step, so its values come from a cache. Groups of rounds are compared while
    the policy changes: with the policy at the round's start, with the policy without its adapters, with a frozen copy, or
    with a teacher. `alive` is called often, on all ranks together; it may raise Stopped.

    Raises:
        UserError: if the frozen model cannot be loaded.
    """
    kind = stepper.algorithm.reference_kind
    if kind == "none":
        return None
    if not rounds:
        return CachedReference(run, stepper, AdaptersOff(stepper), alive)
    if kind == "round":
        return RoundStart(stepper)
    return before_training(stepper, run.config) if kind == "initial" else _frozen(stepper, teacher_config(run.config))


def teacher_config(config: DictConfig) -> DictConfig:
    """Return a run's settings with the teacher as their model, without adapters and quantisation."""
    changed = OmegaConf.merge(config, {"model": {**config.algo.teacher, "quantise": None, "lora": {"rank": 0}}})
    assert isinstance(changed, DictConfig)
    return changed


def before_training(stepper: Stepper, config: DictConfig) -> Reference:
    """Return the policy before training, usable at any time: the policy with its adapters off, or a frozen copy.

    Raises:
        UserError: if the frozen copy cannot be loaded.
    """
    return AdaptersOff(stepper) if stepper.main.module.adapter is not None else _frozen(stepper, config)


def _frozen(stepper: Stepper, config: DictConfig) -> Reference:
    """Return the frozen model of `config` as a reference."""
    model = build_reference(config, stepper.algorithm, stepper.world)
    moves = config.rollout.offload_idle and config.zero.stage < 3  # a partition is small
    return FrozenModel(stepper, model, on_device([model], stepper.world, moves))
