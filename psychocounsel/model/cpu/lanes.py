"""Two micro-batches at once in one process on CPU, in two lanes, which each have half of the threads.

About half of a small model's operations are too small, or too limited by memory, to be faster with more threads.
A lane computes one queue of micro-batches. The first lane, in the calling thread, uses the models themselves; the second has
copies of them, which share their weights and have gradients of their own. On a GPU there is one lane alone.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from omegaconf import DictConfig
from torch import nn

_MOST_PARAMETERS = 250_000_000  # a second lane's gradients take 1 GB then; larger models gain little

Item = TypeVar("Item")
T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


def micro_batches_at_once(
    config: DictConfig, model: nn.Module, drops: bool, processes: int, device: torch.device
) -> int:
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


class _ThisThread(threading.local):
    lane = 0  # number of the lane that the thread computes


_this_thread = _ThisThread()


@contextmanager
def _in_lane(number: int) -> Iterator[None]:
    _this_thread.lane = number
    try:
        yield
    finally:
        _this_thread.lane = 0


class Copies(Generic[Model]):
    """A model's copies for all lanes but the first."""

    def __init__(self, model: Model, at_once: int) -> None:
        """`at_once`: the number of micro-batches that the process computes at once."""
        self._model = model
        self.all = [_copy(model) for _ in range(1, at_once)]

    def mine(self) -> Model | None:
        """Return the copy that the calling thread computes with, or None where it uses the model itself."""
        return self.all[_this_thread.lane - 1] if _this_thread.lane else None

    def move_gradients(self) -> None:
        """Add the copies' gradients to the model's, in the order of the lanes, and clear them."""
        for other in self.all:
            for mine, theirs in zip(self._model.parameters(), other.parameters(), strict=True):
                if theirs.grad is not None:
                    mine.grad = theirs.grad if mine.grad is None else mine.grad.add_(theirs.grad)
                    theirs.grad = None


def _copy(model: Model) -> Model:
    """Return a copy of `model` that shares its weights in memory and has gradients of its own."""
    shared: dict[int, nn.Parameter] = {}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        shared[id(parameter)].grad_dtype = parameter.grad_dtype
    return copy.deepcopy(model, shared)


class Queues:
    """Works off this process's queues of micro-batches: the only one, or two at once, each in a lane."""

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

    def of_rank(self, plan: Sequence[Sequence[Item]], rank: int) -> list[list[Item]]:
        """Return the queues of `rank`, from a plan with those of all ranks.

        Every second queue is reversed, because the two largest micro-batches at once would need the most memory.
        """
        mine = plan[rank * self.count : (rank + 1) * self.count]
        return [[*reversed(queue)] if number % 2 else [*queue] for number, queue in enumerate(mine)]

    def in_turn(self, work: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Do `work` for an item of each queue, one after another.

        The first queue comes last, so that the gradients of all others are in memory by then.
        """
        for number, item in reversed([*enumerate(items)]):
            with _in_lane(number):
                work(item)

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Return the result of `work` for each queue's number; an exception is raised after all queues have ended."""
        if self._pool is None:
            return [work(0)]
        threads, with_grad = torch.get_num_threads(), torch.is_grad_enabled()

        def other(lane: int) -> T:
            with _in_lane(lane), torch.set_grad_enabled(with_grad):  # the gradient mode is a setting of each thread
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
