"""AdamW that updates float32 copies of weights in a narrower dtype, the master weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class MasterAdamW(torch.optim.AdamW):
    """AdamW for a model that computes in bfloat16: gradients add up in float32, and updates change float32 masters.

    An update of a bfloat16 weight by less than 1/256 of it would be lost; in its master it is kept. After each step the
    weights are their masters, rounded. A float32 weight is its own master. `groups` are AdamW's groups of weights.
    `state` and `param_groups` hold the masters.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        groups = list(groups)
        self._masters = {weight: _master(weight) for group in groups for weight in group["params"]}
        masters = [group | {"params": [self._masters[weight] for weight in group["params"]]} for group in groups]
        super().__init__(masters, **settings)

    def master(self, weight: nn.Parameter) -> torch.Tensor:
        return self._masters[weight]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update the masters by the gradients of the weights, and round them into the weights."""
        for weight, master in self._masters.items():
            master.grad = weight.grad
        super().step(closure)
        self.round()
        for weight, master in self._masters.items():
            if master is not weight:
                master.grad = None

    @torch.no_grad()
    def round(self) -> None:
        """Set the weights to their masters, rounded."""
        for weight, master in self._masters.items():
            if master is not weight:
                weight.copy_(master)


def _master(weight: nn.Parameter) -> torch.Tensor:
    if weight.dtype == torch.float32:
        return weight
    weight.grad_dtype = torch.float32
    return weight.detach().float()
