"""Gradients of vocabulary size that are added directly to the weight's `.grad`.

Autograd would create one matrix [vocabulary, hidden] for the output layer and another for the embedding, hold the first
until the second exists, and add them. That takes memory and time that grow with the vocabulary.
"""

import torch
from torch import nn


def add_in_place(module: nn.Module) -> None:
    """Make the output layer and the embeddings in `module` add to `.grad` themselves in backward.

    Use it only for weights without autograd hooks, because hooks do not run for them.
    """
    for layer in module.modules():
        if hasattr(layer, "adds_in_place"):
            layer.adds_in_place = True


def gradient_of(weight: torch.Tensor) -> torch.Tensor:
    """Return the `.grad` of a leaf, to add to; if it has none yet, zeros of the weight's shape, in its `grad_dtype`."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight, dtype=weight.grad_dtype)
    return weight.grad
