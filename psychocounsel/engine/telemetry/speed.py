"""Speed of training, compared with the speed at which its devices multiply matrices."""

import resource
import time
from collections.abc import Sequence

import torch

from psychocounsel.data.group import Group
from psychocounsel.distributed.world import World
from psychocounsel.engine.zero import Engine
from psychocounsel.model.cpu import product
from psychocounsel.model.flops import TrainingFlops

_SIZE = {"cpu": 1536, "cuda": 8192}
_REPEATS = 4
_SECONDS = 0.05  # limit on CPU, because short runs on one thread would otherwise spend a tenth of their time here


class Speed:
    """Measures tokens per second and MFU (model FLOPs utilisation).

    MFU is the operations that training needs (`TrainingFlops`) / (seconds x peak of all devices). The peak is the
    measured speed of a large matrix product on these devices in the dtype of training. On GPU it is below the vendor's
    figure, so this MFU is a little higher than one computed with the vendor's figure.
    """

    def __init__(self, engine: Engine, world: World) -> None:
        self.flops = TrainingFlops(engine.module.lm)
        (self.peak,) = world.sum([_peak_flops(world.device, engine.dtype)])

    def of(self, groups: Sequence[Group], seconds: float) -> dict[str, float]:
        """Return the metrics of a step of `seconds` on the `groups` of all ranks; the memory is this process's."""
        tokens = sum(group.tokens for group in groups)
        return {
            "tokens": tokens,
            "step_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": self.flops.of(groups) / (seconds * self.peak),
            "peak_memory_gb": peak_memory_gb(),
        }


def _peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product: the best of a few."""
    size = _SIZE[device.type]
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    seconds = [_seconds(matrix)]  # on GPU the first product loads the kernels that the others use
    while len(seconds) <= _REPEATS and (matrix.is_cuda or sum(seconds) < _SECONDS):
        seconds.append(_seconds(matrix))
    return 2 * size**3 / min(seconds)


def _seconds(matrix: torch.Tensor) -> float:
    started = time.perf_counter()
    product(matrix, matrix)
    if matrix.is_cuda:
        torch.cuda.synchronize(matrix.device)
    return time.perf_counter() - started


def peak_memory_gb() -> float:
    """Return the peak memory of this process so far [10^9 bytes]: of its GPU if it uses one, otherwise resident in RAM."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def gpu_names(device: torch.device) -> list[str]:
    """Return the names of this node's GPUs if training uses them, otherwise []."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return [torch.cuda.get_device_name(index) for index in range(count)]
