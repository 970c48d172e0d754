"""Application of one function to many items, on all cores of the submitting machine."""

import gc
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from psychocounsel.errors import UserError

T = TypeVar("T")

MANY = 40  # items; for fewer, starting processes takes longer than the work
_RARELY = 200_000  # objects between two garbage collections, in processes that live for seconds
_forked: list[Callable[[Any], Any]] = []  # inherited by forked processes, because a lambda cannot be pickled


def in_parallel(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """Return `work(item)` of every item, in order; many items are distributed over forked processes.

    Raises:
        UserError, OSError: raised by `work` for the first failing item.
    """
    if len(items) < MANY:
        return list(map(work, items))
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    _forked[:] = [lambda number: work(items[number])]
    cores = min(16, len(os.sched_getaffinity(0)))
    gc.collect()
    gc.freeze()  # otherwise a fifth of the time is spent on collecting objects that stay alive
    before = gc.get_threshold()
    gc.set_threshold(_RARELY)
    try:
        with ProcessPoolExecutor(cores, get_context("fork"), gc.set_threshold, (_RARELY,)) as pool:
            try:
                return list(pool.map(_call_forked, range(len(items)), chunksize=10))
            except (UserError, OSError):
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        _forked.clear()
        gc.set_threshold(*before)
        gc.unfreeze()


def _call_forked(number: int) -> Any:
    return _forked[0](number)
