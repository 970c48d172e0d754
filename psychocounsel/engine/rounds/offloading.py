"""Host memory for what a GPU does not need now: training state while replies are written, and frozen models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from psychocounsel.distributed.world import World
from psychocounsel.engine.step import Stepper
from psychocounsel.engine.zero import Engine
from psychocounsel.errors import UserError
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import memory_folder

# Training state, which leaves the GPU while replies are written and scored


class Offloading:
    """Context in which optimizer states, master weights and gradient buffers of all engines are in pinned host memory.

    A critic's weights are moved, too. The main model's weights stay on the GPU, because replies are generated with them.
    If a rollout engine has its own copy of them (`copied`), `leave_weights` moves them as well. If `moves` is false,
    nothing is moved.

    DeepSpeed's own function (`offload_states`) is not used, because it requires DeepSpeed's FusedAdam at stage 3.
    Instead, storages are emptied and refilled, so all tensors that share a storage are unchanged afterwards.
    """

    def __init__(self, stepper: Stepper, moves: bool, copied: bool = False) -> None:
        self.stepper, self.device, self.moves, self.copied = stepper, stepper.world.device, moves, copied
        self.make_room: Callable[[], None] = lambda: None  # ends a rollout's use of the GPU, if a stop interrupts it
        self._waiting: list[tuple[torch.UntypedStorage, torch.Tensor]] = []
        # Host memory by place and bytes, reused because pinning is slow.
        self._room: dict[tuple[int, int], torch.Tensor] = {}

    def __enter__(self) -> None:
        self._leave(with_main=False)

    def leave_weights(self) -> None:
        """Move the main model's weights, too, within the context and after an inference engine has copied them."""
        if self.copied:
            self._leave(with_main=True)

    def _leave(self, with_main: bool) -> None:
        if not self.moves:
            return
        _synchronise(self.device)
        first = len(self._waiting)
        for place, storage in enumerate(self._storages(with_main)):
            key = first + place, storage.nbytes()
            if key not in self._room:
                self._room[key] = torch.empty(
                    storage.nbytes(), dtype=torch.uint8, pin_memory=self.device.type == "cuda"
                )
            self._room[key].copy_(_bytes_of(storage), non_blocking=True)
            self._waiting.append((storage, self._room[key]))
        _synchronise(self.device)
        for storage, _ in self._waiting[first:]:
            storage.resize_(0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # frees the memory for vLLM's pool

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Bring everything back to the GPU, at the end of the context or earlier, when a checkpoint needs it."""
        if not self._waiting:
            return
        self.make_room()
        for storage, waiting in self._waiting:
            storage.resize_(len(waiting))
            _bytes_of(storage).copy_(waiting, non_blocking=True)
        self._waiting.clear()
        _synchronise(self.device)

    def _storages(self, with_main: bool) -> list[torch.UntypedStorage]:
        """Return the storages on the GPU that will be moved, each once."""
        kept = [] if with_main else map(_storage_of, _weights(self.stepper.main))
        needed = {storage.data_ptr() for storage in kept}
        storages: dict[int, torch.UntypedStorage] = {}
        for engine in self.stepper.engines.values():
            for tensor in (*_weights(engine), *_of_training(engine)):
                storage = _storage_of(tensor)
                if storage.device == self.device and storage.nbytes() and storage.data_ptr() not in needed:
                    storages[storage.data_ptr()] = storage
        return list(storages.values())


def _weights(engine: Engine) -> Iterator[torch.Tensor]:
    """Yield the weights that forward passes read; at stage 3, this rank's part of them."""
    for parameter in engine.module.parameters():
        yield parameter.data
        if (part := getattr(parameter, "ds_tensor", None)) is not None:
            yield part.data


def _of_training(engine: Engine) -> Iterator[torch.Tensor]:
    """Yield the tensors in the optimizer and in DeepSpeed's wrapper of it."""
    wrapper = engine.deepspeed.optimizer
    optimizer = getattr(wrapper, "optimizer", wrapper)
    yield from _tensors(vars(wrapper).values())
    yield from _tensors(optimizer.state.values())
    yield from _tensors(group["params"] for group in optimizer.param_groups)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value.data
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return a tensor uint8[bytes] that shares the storage."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, 0, (storage.nbytes(),))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def open_offloading(stepper: Stepper, config: DictConfig) -> Offloading:
    """Return the context for writing and scoring replies; on CPU it moves nothing, because host memory is all there is."""
    if config.get("rollout") is None:
        return Offloading(stepper, False)
    kind = configs.target_class(config, "rollout")
    moves = kind.shares_gpus and config.rollout.offload_idle and stepper.world.device.type == "cuda"
    return Offloading(stepper, moves, kind.copies_weights)


# Tensors that are equal on all ranks, stored once in the host memory of each machine

_ALIGNMENT = 64  # bytes


def node_copies(values: Sequence[torch.Tensor], world: World) -> list[torch.Tensor]:
    """Return copies of `values` on CPU that the ranks of a machine share; the machine's first rank writes them.

    All ranks call it together. For transfers to a GPU the copies are pinned. When the function returns, the file in
    shared memory is already unlinked.

    Raises:
        UserError: if a machine's shared memory is too small, or the ranks of a machine do not share it.
    """
    names = world.gather(os.uname().nodename)
    leader = names.index(names[world.rank])
    starts, total = _places(values)
    reserved: str | OSError = _reserve(total) if world.rank == leader else ""
    place = world.gather(reserved)[leader]
    _refuse([place], world, total)
    try:
        shared = torch.from_file(str(place), shared=True, size=total, dtype=torch.uint8)
        opened: str | OSError = ""
    except (OSError, RuntimeError) as error:
        opened = OSError(str(error).splitlines()[0])
    _refuse([opened], world, total)
    copies = [
        shared[start : start + value.nbytes].view(value.dtype).view(value.shape)
        for start, value in zip(starts, values, strict=True)
    ]
    if world.rank == leader:
        Path(str(place)).unlink()
        for copy, value in zip(copies, values, strict=True):
            copy.copy_(value)
    if world.device.type == "cuda":
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(shared.data_ptr(), total, 0))
    world.barrier()
    return copies


def _places(values: Sequence[torch.Tensor]) -> tuple[list[int], int]:
    """Return the first byte of each value, and the bytes of all values."""
    starts, total = [], 0
    for value in values:
        starts.append(total)
        total += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
    return starts, max(total, _ALIGNMENT)


def _reserve(size: int) -> str | OSError:
    """Return the name of a new file of `size` bytes, or the error if there is no room.

    Reserving prevents a later crash, because the system otherwise promises memory that it does not have.
    """
    descriptor, name = tempfile.mkstemp(prefix="psychocounsel-frozen-", dir=memory_folder())
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        Path(name).unlink()
        return error
    finally:
        os.close(descriptor)
    return name


def _refuse(results: Sequence[str | OSError], world: World, size: int) -> None:
    """Raise on all ranks if one of them failed."""
    failed = [result for from_rank in world.gather(results) for result in from_rank if isinstance(result, OSError)]
    if failed:
        raise UserError(
            f"rollout.offload_idle=true: the processes of a machine cannot share {size / 1e9:.1f} GB in "
            f"{memory_folder() or tempfile.gettempdir()} ({failed[0].strerror or failed[0]}): make it larger, or "
            "use rollout.offload_idle=false"
        )


# Frozen models, which are on the GPU only while they are used


class OnDevice:
    """Context in which the weights of `models` are on this rank's device; outside it they are in host memory.

    The weights never change, so all ranks of a machine share one host copy, and nothing is copied back. Buffers are
    small and stay on the device. All ranks of `world` create it together.

    Raises:
        UserError: as in `node_copies`.
    """

    def __init__(self, models: Iterable[nn.Module], world: World) -> None:
        self.device = world.device
        weights = [parameter for model in models for parameter in model.parameters()]  # tied weights are listed once
        copies = node_copies([parameter.data for parameter in weights], world) if weights else []
        self._waiting = list(zip(weights, copies, strict=True))
        self._leave()

    def __enter__(self) -> None:
        for parameter, waiting in self._waiting:
            parameter.data = waiting.to(self.device, non_blocking=True, copy=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        for parameter, waiting in self._waiting:
            parameter.data = waiting
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # frees the memory for an inference engine with a pool of its own


def on_device(models: Iterable[nn.Module], world: World, offload: bool) -> AbstractContextManager[Any]:
    """Return the context to use `models` in. It moves them only with `offload` and on GPU.

    On CPU they stay where they are, because host memory is all there is.

    Raises:
        UserError: as in `node_copies`.
    """
    return OnDevice(models, world) if offload and world.device.type == "cuda" else nullcontext()
