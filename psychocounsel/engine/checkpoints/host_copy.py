"""Copies of tensors in host memory, in buffers that every checkpoint uses again."""

import torch


class HostCopy:
    """Named buffers in host memory, pinned for tensors on a GPU. A new copy overwrites the last one of the same name."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Start to copy `value` into its buffer and return the buffer; its content is complete after `wait`."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(value, non_blocking=value.is_cuda)

    def wait(self) -> None:
        """Return when all copies are complete."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
