"""Prefetching: a thread builds the next batch while the present one is in use."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
