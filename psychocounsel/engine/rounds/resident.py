"""Frozen models that are on the GPU only while they are used; otherwise their weights are in host memory."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import nn

from psychocounsel.distributed.world import World
from psychocounsel.engine.rounds.node_memory import node_copies


class Resident:
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


def resident(models: Iterable[nn.Module], world: World, offload: bool) -> AbstractContextManager[Any]:
    """Return the context to use `models` in. It moves them only with `offload` and on GPU.

    On CPU they stay where they are, because host memory is all there is.

    Raises:
        UserError: as in `node_copies`.
    """
    return Resident(models, world) if offload and world.device.type == "cuda" else nullcontext()
