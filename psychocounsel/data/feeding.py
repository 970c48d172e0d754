"""Feeding of batches to a device: a batch is built while the one before it is computed, and copied without waiting."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def one_ahead(items: Iterator[T], begin: Callable[[], None]) -> Iterator[T]:
    """Yield the items in order; a thread makes the next item while the present one is in use.

    The thread calls `begin` first. An exception raised while an item is made is raised in its place.
    """
    end = object()
    with ThreadPoolExecutor(1, "next-batch", begin) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in pinned host memory, from which a GPU copies without waiting."""
    return tensor.pin_memory()


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on `device`.

    A copy to a GPU is queued after the operations already queued there; this process does not wait for it.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = pinned(tensor)
    return tensor.to(device, non_blocking=True)
