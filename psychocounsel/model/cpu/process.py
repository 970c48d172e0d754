"""Settings of a CPU process for freed memory and compiled products. Calls to glibc do nothing with another C library."""

import contextlib
import ctypes
import os

import torch

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # numbers of these options in glibc's malloc.h


def prepare_process(dtype: torch.dtype | None = None) -> None:
    """Set up memory for a process that computes on CPU; call it before the first matrix product.

    `dtype`: dtype of training. For float32, oneDNN then keeps fewer compiled products; None leaves oneDNN unchanged.
    """
    _keep_freed_memory()
    if dtype == torch.float32:
        _keep_few_products()


def return_freed_memory() -> None:
    """Return freed memory to the system now, so that this process holds only memory that it uses."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _keep_freed_memory() -> None:
    """Keep freed memory in this process and use it again for later tensors.

    Otherwise each tensor would get new memory, and the kernel's work on new pages was 3 to 5 % of a training step.
    """
    with contextlib.suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
        library.mallopt(_ARENA_MAX, 1)  # memory freed by one thread can be used by another


def _keep_few_products() -> None:
    """Let oneDNN keep only the compiled products of the latest shapes, of one to two megabytes each.

    Without kept products, each was compiled at every call, and a step took 4 to 7 % longer; two lanes use 26 shapes at
    a time. The limit is for float32 only: bfloat16 needs more products, and with the limit a step took twice as long.
    oneDNN reads the setting at the first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
