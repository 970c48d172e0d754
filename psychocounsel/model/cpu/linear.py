"""Linear layers whose float32 products on CPU are computed by oneDNN.

PyTorch uses MKL, which took 1.2 to 2.2 times as long on two AMD processors; Intel processors were not measured.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# oneDNN compiles a product for each new number of rows, so on CPU rows are padded to a multiple of this number.
PRODUCT_ROWS = 32


class Linear(nn.Linear):
    """A linear layer with oneDNN products on CPU; `Linear.adopt` converts a module's plain linear layers, in place."""

    reordered: torch.Tensor | None = None  # the weight in oneDNN's order, within the context `reordered`
    in_float32 = False  # True for a layer that computes in float32 whatever its weight's dtype

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = cls

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.reordered is not None:
            return _onednn(input, self.reordered, None if self.bias is None else self.bias.to(input.dtype))
        if not suits(input, self.weight):
            return super().forward(input)
        result: torch.Tensor = _Linear.apply(input, self.weight, self.bias)
        return result


def product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return left @ right.T + bias, [..., N], from [..., K] and [N, K] of any strides; it has no gradient of its own."""
    if not suits(left, right):
        return nn.functional.linear(left, right, bias)
    if not (right.is_contiguous() or right.t().is_contiguous()):
        right = right.contiguous()  # with gaps between rows, oneDNN takes a hundred times as long
    return _onednn(left, right, bias)


@contextmanager
def reordered(module: nn.Module) -> Iterator[None]:
    """Keep a second copy of the weights of a module's `Linear` layers in oneDNN's own order, within this context.

    Products of a few rows are then up to twice as fast. They have no gradient, and the weights must not change. On
    devices other than the CPU nothing is copied.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Linear) and layer.weight.device.type == "cpu"]
    try:
        for layer in layers:
            weight = layer.weight.detach().float() if layer.in_float32 else layer.weight.detach()
            if suits(weight, weight):
                layer.reordered = torch.ops.mkldnn._reorder_linear_weight(weight, PRODUCT_ROWS)
        yield
    finally:
        for layer in layers:
            layer.reordered = None


def _onednn(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return result


def outer_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left.T @ right, [M, K], from [N, M] and [N, K]; it has no gradient of its own."""
    if not suits(left, right):
        return left.t() @ right
    return product(left.t(), right.t())


def suits(input: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return True if this package's CPU code should compute a product of these tensors."""
    is_float = input.dtype == weight.dtype == torch.float32
    return is_float and input.device.type == "cpu" and input.numel() > 0 and torch.backends.mkldnn.is_available()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        return product(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        wants_input, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        to_input = product(grad, weight.t()) if wants_input else None
        to_weight = outer_product(rows, input.reshape(-1, input.shape[-1])) if wants_weight else None
        return to_input, to_weight, rows.sum(0) if wants_bias else None
