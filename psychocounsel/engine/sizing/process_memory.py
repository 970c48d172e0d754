"""Peak and usable memory of this process, on CPU and on GPU."""

import math
import re
from pathlib import Path

import torch

from psychocounsel.distributed.world import World
from psychocounsel.errors import UserError
from psychocounsel.model.cpu import return_freed_memory

_CGROUP = Path("/sys/fs/cgroup")


def forget_peak(device: torch.device) -> None:
    """Restart the measurement of `peak_bytes`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        return_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process since `forget_peak` [bytes]: allocated on the GPU, or resident in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes("/proc/self/status", "VmHWM") * 1024


def usable_bytes(world: World) -> float:
    """Return the memory that this process may use [bytes]: the memory it has, and its share of the free memory.

    All ranks call it together.

    Raises:
        UserError: if the system does not report its memory in /proc.
    """
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info(world.device)[0] + torch.cuda.memory_reserved(world.device)
    free = min(_kilobytes("/proc/meminfo", "MemAvailable") * 1024, _free_in_cgroup())
    return _kilobytes("/proc/self/status", "VmRSS") * 1024 + free / world.on_this_machine()


def _free_in_cgroup() -> float:
    """Return the bytes that the scheduler or container still allows this process."""
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # the limit does not exist, or is the word "max"
        return math.inf
    return limit - used


def _kilobytes(file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
    if found is None:
        raise UserError(f"micro_batch_tokens=auto: {file} has no line {name} on this system; give a number")
    return int(found[1])
