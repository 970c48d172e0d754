"""Copies of tensors from the host to a device."""

import torch


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in pinned host memory, from which a GPU copies without waiting."""
    return tensor.pin_memory()


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on `device`.

    A copy to a GPU is queued after the operations already queued there; this process does not wait for it.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = pinned(tensor)
    return tensor.to(device, non_blocking=True)
