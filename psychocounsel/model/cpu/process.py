"""How a process on CPU treats freed memory and compiled products. Calls to glibc do nothing with another C library."""

import contextlib
import ctypes
import os

import torch

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # glibc's names for them, in malloc.h


def prepare_process(dtype: torch.dtype | None = None) -> None:
    """Set up memory for a process that computes on CPU; call it before the first product.

    `dtype`: what the process trains in. In float32 oneDNN then keeps fewer compiled products; None leaves that alone.
    """
    _keep_freed_memory()
    if dtype == torch.float32:
        _keep_few_products()


def return_freed_memory() -> None:
    """Give freed memory back to the system now, so that the memory of this process is what it uses."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _keep_freed_memory() -> None:
    """Keep freed memory in this process, for the tensors that come next.

    Those would otherwise be new memory each time, and the kernel's work on new pages was 3 to 5 % of a training step.
    """
    with contextlib.suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
        library.mallopt(_ARENA_MAX, 1)  # what one thread frees, another one uses


def _keep_few_products() -> None:
    """Let oneDNN keep only the compiled products of the latest shapes: one to two megabytes each, beside its kernels.

    With none, each product was compiled at every call, and a step took 4 to 7 % longer; two lanes use 26 shapes at a time.
    For float32 only: in bfloat16 all of them are needed, and a step took twice as long. Read at the first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
