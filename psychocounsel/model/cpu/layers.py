"""Llama-style norms and MLPs that keep less for backward, in float32 on CPU; elsewhere they compute as before."""

from typing import Any

import torch
from torch import nn

from psychocounsel.model.cpu.linear import Linear, outer_product, product, suits
from psychocounsel.model.gradients import gradient_of

# Embeddings that add their gradient to `.grad` in place; model/gradients.py gives the reason.


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


_NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
_MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}
_SILU = {"SiLU", "SiLUActivation"}


def adopt(module: nn.Module) -> None:
    """Replace a transformers model's linear layers, embeddings, norms and MLPs by those of this package, in place."""
    Linear.adopt(module)
    Embedding.adopt(module)
    for layer in module.modules():
        kind = type(layer).__name__
        if "forward" in vars(layer):
            continue  # another library's kernel is installed
        if kind in _NORMS:
            layer.__class__ = RMSNorm
        elif kind in _MLPS and type(layer.act_fn).__name__ in _SILU and type(layer.down_proj) is Linear:
            layer.__class__ = GatedMLP
            layer.down_proj.__class__ = GatedLinear


class RMSNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + epsilon), over the last dimension (https://arxiv.org/abs/1910.07467, equation 4)."""

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if suits(hidden, self.weight):
            result: torch.Tensor = _RMSNorm.apply(hidden, self.weight, self.variance_epsilon)
            return result
        wide = hidden.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * normed.to(hidden.dtype)


class GatedMLP(nn.Module):
    """down(SiLU(gate(x)) * up(x)) (https://arxiv.org/abs/2002.05202, SwiGLU)."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down_proj(self.gate_proj(hidden), self.up_proj(hidden))
        return result


class GatedLinear(Linear):
    """The last layer of a gated MLP; it multiplies gate and up itself, so that two tensors are kept, not three."""

    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if self.reordered is not None or not suits(gate, self.weight):
            return super().forward(nn.functional.silu(gate) * up)
        result: torch.Tensor = _GatedLinear.apply(gate, up, self.weight, self.bias)
        return result


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        scale = norm.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        return (hidden * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, scale = ctx.saved_tensors
        normed = hidden * scale
        slopes = grad * normed
        along = (slopes @ weight).div_(hidden.shape[-1]).unsqueeze(-1)
        to_hidden = (grad * weight).addcmul_(normed, along, value=-1).mul_(scale)
        to_weight = slopes.reshape(-1, slopes.shape[-1]).sum(0) if ctx.needs_input_grad[1] else None
        return to_hidden, to_weight, None


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gate: torch.Tensor, up: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(gate, up, weight)
        return product(nn.functional.silu(gate).mul_(up), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        active = nn.functional.silu(gate)
        to_weight = outer_product(rows, (active * up).reshape(len(rows), -1)) if ctx.needs_input_grad[2] else None
        to_bias = rows.sum(0) if ctx.needs_input_grad[3] else None
        slopes = product(grad, weight.t())
        to_up = active.mul_(slopes)
        to_gate = torch.ops.aten.silu_backward(slopes.mul_(up), gate)
        return to_gate, to_up, to_weight, to_bias
