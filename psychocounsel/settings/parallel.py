"""The same work on many items, on all cores of the machine that submits."""

import gc
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from psychocounsel.errors import UserError

T = TypeVar("T")

_MANY = 40  # items from which on it pays to start processes
_RARELY = 200_000  # objects between two searches for garbage in a process that lives for seconds
_forked: list[Callable[[Any], Any]] = []  # what forked processes inherit: little of it can be pickled


def in_parallel(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """`work` of every item, in order; of many, in processes forked from this one.

    Raises:
        UserError, OSError: as `work` says, of the first item for which it does.
    """
    if len(items) < _MANY:
        return list(map(work, items))
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    _forked[:] = [lambda number: work(items[number])]
    cores = min(16, len(os.sched_getaffinity(0)))
    gc.collect()
    gc.freeze()  # looking through what will live anyway took a fifth of the time
    try:
        with ProcessPoolExecutor(cores, get_context("fork"), gc.set_threshold, (_RARELY,)) as pool:
            try:
                return list(pool.map(_call_forked, range(len(items)), chunksize=10))
            except (UserError, OSError):
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        _forked.clear()
        gc.unfreeze()


def _call_forked(number: int) -> Any:
    return _forked[0](number)
