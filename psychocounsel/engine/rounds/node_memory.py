"""Tensors that are equal on all ranks, stored once in the host memory of each machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from psychocounsel.distributed.world import World
from psychocounsel.errors import UserError

_SHARED = Path("/dev/shm")
_ALIGNMENT = 64  # bytes


def node_copies(values: Sequence[torch.Tensor], world: World) -> list[torch.Tensor]:
    """Return copies of `values` on CPU that the ranks of a machine share; the machine's first rank writes them.

    All ranks call it together. For transfers to a GPU the copies are pinned. When the function returns, the file in
    shared memory is already unlinked.

    Raises:
        UserError: if a machine's shared memory is too small, or the ranks of a machine do not share it.
    """
    names = world.gather(os.uname().nodename)
    leader = names.index(names[world.rank])
    starts, total = _places(values)
    made: str | OSError = _reserve(total) if world.rank == leader else ""
    place = world.gather(made)[leader]
    _refuse([place], world, total)
    try:
        shared = torch.from_file(str(place), shared=True, size=total, dtype=torch.uint8)
        opened: str | OSError = ""
    except (OSError, RuntimeError) as error:
        opened = OSError(str(error).splitlines()[0])
    _refuse([opened], world, total)
    copies = [
        shared[start : start + value.nbytes].view(value.dtype).view(value.shape)
        for start, value in zip(starts, values, strict=True)
    ]
    if world.rank == leader:
        Path(str(place)).unlink()
        for copy, value in zip(copies, values, strict=True):
            copy.copy_(value)
    if world.device.type == "cuda":
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(shared.data_ptr(), total, 0))
    world.barrier()
    return copies


def _places(values: Sequence[torch.Tensor]) -> tuple[list[int], int]:
    """Return the first byte of each value, and the bytes of all values."""
    starts, total = [], 0
    for value in values:
        starts.append(total)
        total += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
    return starts, max(total, _ALIGNMENT)


def _reserve(size: int) -> str | OSError:
    """Return the name of a new file of `size` bytes, or the error if there is no room.

    Reserving prevents a later crash, because the system otherwise promises memory that it does not have.
    """
    descriptor, name = tempfile.mkstemp(prefix="psychocounsel-frozen-", dir=_SHARED if _SHARED.is_dir() else None)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        Path(name).unlink()
        return error
    finally:
        os.close(descriptor)
    return name


def _refuse(found: Sequence[str | OSError], world: World, size: int) -> None:
    """Raise on all ranks if one of them failed."""
    failed = [each for some in world.gather(found) for each in some if isinstance(each, OSError)]
    if failed:
        raise UserError(
            f"rollout.offload_idle=true: the processes of a machine cannot share {size / 1e9:.1f} GB in {_SHARED} "
            f"({failed[0].strerror or failed[0]}): make it larger, or use rollout.offload_idle=false"
        )
