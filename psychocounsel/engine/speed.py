"""How fast this device multiplies matrices, which is what training can be measured against."""

import time

import torch

_SIZE = {"cpu": 1536, "cuda": 8192}
_REPEATS = 4


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product on `device` in `dtype`: the best of a few, after a first."""
    size = _SIZE[device.type]
    left = torch.ones(size, size, device=device, dtype=dtype)
    return max(2 * size**3 / _seconds(left) for _ in range(1 + _REPEATS))


def _seconds(matrix: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.mm(matrix, matrix)
    if matrix.is_cuda:
        torch.cuda.synchronize(matrix.device)
    return time.perf_counter() - started
