"""Tensors on their way from the host to a device."""

import torch


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """In memory of the host that a GPU copies from by itself."""
    return tensor.pin_memory()


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On `device`. A copy to a GPU joins the operations that are queued there, and this process does not wait for them."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = pinned(tensor)
    return tensor.to(device, non_blocking=True)
