"""Gradients of vocabulary size, added to the weight's own where they belong.

Autograd would make each as a matrix of its own, [vocabulary, hidden], for the output layer and again for the embedding,
hold the first until the second is there, and add both: memory and time that grow with the vocabulary.
"""

from typing import Any

import torch
from torch import nn


class Embedding(nn.Embedding):
    """`Embedding.adopt` makes a module's plain embeddings into these, in place."""

    adds_in_place = False

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        for layer in module.modules():
            plain = type(layer) is nn.Embedding and layer.max_norm is None and not layer.scale_grad_by_freq
            if plain and not layer.sparse:
                layer.__class__ = cls

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.adds_in_place:
            return super().forward(input)
        result: torch.Tensor = _Lookup.apply(self.weight, input, self.padding_idx)
        return result


def add_in_place(module: nn.Module) -> None:
    """From now on layers of vocabulary size add to `.grad` themselves in backward.

    Only for weights whose gradients nobody waits for: hooks of autograd do not run for them.
    """
    for layer in module.modules():
        if hasattr(layer, "adds_in_place"):
            layer.adds_in_place = True


def gradient_of(weight: torch.Tensor) -> torch.Tensor:
    """The gradient that a leaf has so far, which is to be added to."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, indices: torch.Tensor, padding: int | None) -> torch.Tensor:
        ctx.weight, ctx.padding = weight, padding
        ctx.save_for_backward(indices)
        return nn.functional.embedding(indices, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, None, None]:
        (indices,) = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1]).to(ctx.weight.dtype)
        if ctx.padding is not None:  # its vector does not learn
            rows = rows.masked_fill((indices.reshape(-1, 1) == ctx.padding), 0.0)
        gradient_of(ctx.weight).index_add_(0, indices.reshape(-1), rows)
        return None, None, None
