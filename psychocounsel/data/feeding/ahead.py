"""The next batch, made in a thread while the last one is computed on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(items: Iterator[T], begin: Callable[[], None]) -> Iterator[T]:
    """The items in their order; each is made in a thread, which called `begin` first, while the last one is in use.

    What making an item raises is raised where the item would come.
    """
    end = object()
    with ThreadPoolExecutor(1, "next-batch", begin) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
