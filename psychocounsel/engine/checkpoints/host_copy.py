"""Copies of tensors in host memory, in buffers that every save uses again."""

import torch


class HostCopy:
    """Buffers by name, in pinned memory for what lies on a GPU. The next copy of a name overwrites the one before."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Begin to copy `value`; the copy is there after `wait`."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(value, non_blocking=value.is_cuda)

    def wait(self) -> None:
        """Return when all copies are there."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
