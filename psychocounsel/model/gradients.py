"""Gradients of vocabulary size, added to the weight's own where they belong.

Autograd would make each as a matrix of its own, [vocabulary, hidden], for the output layer and again for the embedding,
hold the first until the second is there, and add both: memory and time that grow with the vocabulary.
"""

import torch
from torch import nn


def add_in_place(module: nn.Module) -> None:
    """From now on the output layer and the embeddings in `module` add to `.grad` themselves in backward.

    Only for weights whose gradients nobody waits for: hooks of autograd do not run for them.
    """
    for layer in module.modules():
        if hasattr(layer, "adds_in_place"):
            layer.adds_in_place = True


def gradient_of(weight: torch.Tensor) -> torch.Tensor:
    """The `.grad` of a leaf, to be added to: zeros of the weight's shape if it has none yet."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
