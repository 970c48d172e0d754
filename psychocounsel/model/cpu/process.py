"""Settings of a CPU process for freed memory and compiled products. Calls to glibc do nothing with another C library."""

import contextlib
import ctypes
import math
import os
import re
from pathlib import Path

import torch

_PRODUCTS = {torch.float32: 32, torch.bfloat16: 128}  # two lanes use 26 shapes at a time in float32
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # numbers of these options in glibc's malloc.h


def prepare_process(dtype: torch.dtype | None = None) -> None:
    """Set up memory for a process that computes on CPU; call it before the first matrix product.

    `dtype`: dtype of training, for which few compiled products are kept; None keeps as many as the libraries do.
    """
    _keep_freed_memory()
    if dtype is not None:
        _keep_few_products(_PRODUCTS[dtype])


def free_bytes() -> float:
    """Return the memory that the system, and this process's container or job, still has [bytes]; infinity if it does not say."""
    limit = math.inf
    with contextlib.suppress(OSError, ValueError):  # the limit does not exist, or is the word "max"
        limit = _limit("memory.max") - _limit("memory.current")
    return min(_available(), limit)


def return_freed_memory() -> None:
    """Return freed memory to the system now, so that this process holds only memory that it uses."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _available() -> float:
    with contextlib.suppress(OSError):
        if found := re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return math.inf


def _limit(name: str) -> int:
    return int((Path("/sys/fs/cgroup") / name).read_text())


def _keep_freed_memory() -> None:
    """Keep freed memory in this process and use it again for later tensors.

    Otherwise each tensor would get new memory, and the kernel's work on new pages was 3 to 5 % of a training step.
    """
    with contextlib.suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
        library.mallopt(_ARENA_MAX, 1)  # memory freed by one thread can be used by another


def _keep_few_products(count: int) -> None:
    """Let oneDNN, and PyTorch's own layer above it, keep only the compiled products of the latest shapes.

    A product takes one to two megabytes, and each new number of rows needs some twenty of them. A bfloat16 run of a model of
    42M weights otherwise grew by 0.7 GB in 8 steps. Without kept products, a float32 step took 4 to 7 % longer; with
    `_PRODUCTS`, a bfloat16 step took 2 % longer than with all. The libraries read the settings at the first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(count))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(count))
