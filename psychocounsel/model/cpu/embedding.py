"""Embeddings that add their gradient to `.grad` in place; model/gradients.py gives the reason."""

from typing import Any

import torch
from torch import nn

from psychocounsel.model.gradients import gradient_of


class Embedding(nn.Embedding):
    """An embedding that can add to `.grad`; `Embedding.adopt` converts a module's plain embeddings, in place."""

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


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, indices: torch.Tensor, padding: int | None) -> torch.Tensor:
        ctx.weight, ctx.padding = weight, padding
        ctx.save_for_backward(indices)
        return nn.functional.embedding(indices, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, None, None]:
        (indices,) = ctx.saved_tensors
        total = gradient_of(ctx.weight)
        rows = grad.reshape(-1, grad.shape[-1]).to(total.dtype)
        if ctx.padding is not None:  # the padding vector is not trained
            rows = rows.masked_fill((indices.reshape(-1, 1) == ctx.padding), 0.0)
        total.index_add_(0, indices.reshape(-1), rows)
        return None, None, None
