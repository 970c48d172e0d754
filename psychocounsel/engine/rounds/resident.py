"""Frozen models that are on the GPU only while they are asked: in between their weights wait in host memory."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import nn

from psychocounsel.distributed.world import World
from psychocounsel.engine.rounds.node_memory import node_copies


class Resident:
    """Inside of `with`, and not outside, the weights of `models` are on `device`.

    They never change, so the copy in host memory is made once, for all ranks of a machine, and nothing is copied back.
    Buffers, which are small, stay. All ranks of `world` make it together.
    """

    def __init__(self, models: Iterable[nn.Module], world: World) -> None:
        self.device = world.device
        weights = [parameter for model in models for parameter in model.parameters()]  # tied ones are named once
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
            torch.cuda.empty_cache()  # an engine beside training has a pool of its own


def resident(models: Iterable[nn.Module], world: World, offload: bool) -> AbstractContextManager[Any]:
    """What to ask `models` within. Only a GPU has less memory than its host: elsewhere they stay where they are."""
    return Resident(models, world) if offload and world.device.type == "cuda" else nullcontext()
