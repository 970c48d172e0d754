"""Tensors that all ranks have alike, once in the host memory of each machine."""

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
    """Copies of `values` on CPU, which the ranks of a machine share: its first rank writes them. All ranks together.

    For transfers to a GPU they are pinned. The file in shared memory has no name any more when this returns.

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
    """Where each value begins, and the bytes of all."""
    starts, total = [], 0
    for value in values:
        starts.append(total)
        total += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
    return starts, max(total, _ALIGNMENT)


def _reserve(size: int) -> str | OSError:
    """A new file of so many bytes, or why there is none: memory that is promised and not there would end the process later."""
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
    """End all ranks alike if one of them failed."""
    failed = [each for some in world.gather(found) for each in some if isinstance(each, OSError)]
    if failed:
        raise UserError(
            f"rollout.offload_idle=true: the processes of a machine cannot share {size / 1e9:.1f} GB in {_SHARED} "
            f"({failed[0].strerror or failed[0]}): make it larger, or use rollout.offload_idle=false"
        )
