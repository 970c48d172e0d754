"""The last layer of a model (logits, score or value), which computes in float32 whatever the dtype of the model.

A logit of 20 rounded to bfloat16 is wrong by up to 0.06, and a reply has hundreds of them.
"""

from typing import Any

import torch
from torch import nn

from psychocounsel.model.cpu import Linear, product


class Head(Linear):
    """A linear layer with float32 outputs from states and weights in the model's dtype."""

    in_float32 = True

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        """Convert the plain linear layers in `module`, in place."""
        for layer in module.modules():
            if type(layer) in (nn.Linear, Linear):
                layer.__class__ = cls

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32[..., outputs] from [..., H]."""
        if self.weight.dtype == torch.float32 or self.reordered is not None:
            return super().forward(hidden.float())
        if hidden.is_cuda and not torch.is_grad_enabled():
            return wide_product(hidden.flatten(0, -2), self.weight, self.bias).unflatten(0, hidden.shape[:-1])
        return nn.functional.linear(hidden.float(), self.weight.float(), _wide(self.bias))


def wide_product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return left @ right.T + bias, float32[N, M], from [N, K] and [M, K] in the same dtype; it has no gradient of its own.

    Products of bfloat16 numbers are exact in float32, and so are summed without a rounding to bfloat16.
    """
    if not left.is_cuda or left.dtype == torch.float32:
        return product(left.float(), right.float(), _wide(bias))
    result: Any = torch.mm(left, right.t(), out_dtype=torch.float32)
    return result if bias is None else result.add_(bias)


def _wide(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.float()
