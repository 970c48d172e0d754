"""Two micro-batches at once in one process on CPU: each lane has half of the threads and gradients of its own.

About half of a small model's operations are too small, or too limited by memory, to be faster with more threads.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from omegaconf import DictConfig
from torch import nn

_MOST_PARAMETERS = 250_000_000  # a second lane's gradients take 1 GB then; larger models gain little

T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


def lane_count(config: DictConfig, model: nn.Module, drops: bool, processes: int, device: torch.device) -> int:
    """Return the number of micro-batches that a process computes at once, 2 or 1.

    It is 2 with `engine.two_lanes`, for a small model in a single CPU process with at least two threads, at ZeRO-0, and
    without adapters, gradient checkpointing and dropout. `drops`: True if the model has dropout; with two lanes, the
    order of its random draws would differ between runs.
    """
    if not config.engine.two_lanes:
        return 1
    alone = processes == 1 and device.type == "cpu" and torch.get_num_threads() >= 2
    plain = config.zero.stage == 0 and not config.model.lora.rank and not config.model.gradient_checkpointing
    small = sum(parameter.numel() for parameter in model.parameters()) <= _MOST_PARAMETERS
    return 2 if alone and plain and small and not drops else 1


def replica(model: Model) -> Model:
    """Return a copy of `model` that shares its weights in memory and has gradients of its own."""
    shared: dict[int, nn.Parameter] = {}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        shared[id(parameter)].grad_dtype = parameter.grad_dtype
    return copy.deepcopy(model, shared)


class Lanes:
    """Runs work in all lanes at once, the first lane in the calling thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = max(1, torch.get_num_threads() // count)
        self._pool = ThreadPoolExecutor(count - 1, "lane", self._enter) if count > 1 else None

    def _enter(self) -> None:
        """Give the calling thread the threads of a lane."""
        # A new thread takes the number that any thread set last, but only at its first operation, and so would undo its
        # own setting at a time that differs between runs. Reading the number counts as that first operation.
        torch.get_num_threads()
        torch.set_num_threads(self._threads)

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Return the result of `work` for each lane's number; an exception is raised after all lanes have ended."""
        if self._pool is None:
            return [work(0)]
        threads, with_grad = torch.get_num_threads(), torch.is_grad_enabled()

        def other(lane: int) -> T:
            with torch.set_grad_enabled(with_grad):  # a setting of each thread
                return work(lane)

        others = [self._pool.submit(other, lane) for lane in range(1, self.count)]
        self._enter()
        try:
            first = work(0)
        finally:
            torch.set_num_threads(threads)
            errors = [future.exception() for future in others]
        for error in filter(None, errors):
            raise error
        return [first, *(future.result() for future in others)]
