"""Log-probabilities of given tokens, a block of the vocabulary at a time: full logits never exist, forward or backward."""

from typing import Any

import torch
from torch import nn

_PIECE_BYTES = {"cpu": 1 << 25, "cuda": 1 << 28}  # logits computed at once; on CPU what its cache may hold
_KEPT_BYTES = {"cpu": 1 << 29, "cuda": 0}  # logits kept for backward, where the rest is computed again


class OutputLayer(nn.Linear):
    """A language model's output layer that, given targets, returns their log-probabilities instead of logits.

    A model's own layer is made into one by `OutputLayer.adopt`: it stays the same module with the same parameters, so
    that engines which gather partitioned weights when a module is called do so once for all blocks.
    """

    @classmethod
    def adopt(cls, layer: Any) -> "OutputLayer":
        """Turn a plain linear layer into an OutputLayer, in place."""
        if type(layer) is nn.Linear:
            layer.__class__ = cls
        if not isinstance(layer, cls):
            raise TypeError(f"the output layer is a {type(layer).__name__}, not a plain linear layer")
        return layer

    def forward(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor | None = None,
        temperature: float = 1.0,
        softcap: float | None = None,
    ) -> torch.Tensor:
        """float32[N]: log p(targets | hidden), from [N, H] and int64[N]; without targets the logits, [..., vocabulary].

        Logits are capped as `softcap * tanh(logits / softcap)` and divided by `temperature`.
        """
        if targets is None:
            return super().forward(hidden)
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        room = _KEPT_BYTES[kind] if torch.is_grad_enabled() else 0
        result: torch.Tensor = _TokenLogprobs.apply(
            hidden, self.weight, self.bias, targets, temperature, softcap, dtype, room
        )
        return result


class _TokenLogprobs(torch.autograd.Function):
    """Goes through the vocabulary block by block, keeps each token's log normaliser alone, and computes logits anew in backward.

    Logits of at most `room` bytes are kept instead.

    With z the logits and p = softmax(z): d log p_target / dz_j = [j = target] - p_j.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        softcap: float | None,
        dtype: torch.dtype,
        room: int,
    ) -> torch.Tensor:
        cast = _Cast(hidden, weight, bias, targets, temperature, softcap, dtype)
        normaliser = hidden.new_full(targets.shape, -torch.inf, dtype=torch.float32)
        chosen = torch.zeros_like(normaliser)
        kept: list[torch.Tensor] = []
        for block in cast.blocks():
            logits = cast.logits(block)
            if (room := room - logits.nbytes) >= 0:
                kept.append(logits)
            normaliser = torch.logaddexp(normaliser, logits.logsumexp(1))
            inside, column = cast.target(block)
            chosen += torch.where(inside, logits.gather(1, column).squeeze(1), 0.0)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.settings, ctx.kept = (temperature, softcap, dtype), kept
        return chosen - normaliser

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        cast = _Cast(hidden, weight, bias, targets, *ctx.settings)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if wants_hidden else None
        to_weight = torch.empty_like(weight) if wants_weight else None
        to_bias = torch.empty_like(bias) if wants_bias else None
        scaled = (hidden * grad[:, None]).to(cast.weight.dtype)
        kept = ctx.kept[::-1]
        ctx.kept = None
        for block in cast.blocks():
            change = cast.changes(block, normaliser, kept.pop() if kept else cast.logits(block))
            if to_hidden is not None:
                _add_product(to_hidden, change, cast.weight[block])
            if to_weight is not None:
                to_weight[block] = change.t() @ scaled
            if to_bias is not None:
                to_bias[block] = grad.to(change.dtype) @ change
        if to_hidden is not None:
            to_hidden = (to_hidden * grad[:, None]).to(hidden.dtype)
        return to_hidden, to_weight, to_bias, *[None] * 5


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left @ right to a float32 total: blocks' products that are in bfloat16 are not summed in it."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _Cast:
    """The output layer and what goes into it, in the dtype that computes, a block of the vocabulary at a time."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        softcap: float | None,
        dtype: torch.dtype,
    ) -> None:
        self.hidden, self.targets = hidden.to(dtype), targets
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        self.temperature, self.softcap = temperature, softcap

    def blocks(self) -> list[slice]:
        """Parts of the vocabulary for which the logits of all tokens make up the piece."""
        size = max(1, _PIECE_BYTES[self.hidden.device.type] // (4 * len(self.hidden)))
        return [slice(start, min(start + size, len(self.weight))) for start in range(0, len(self.weight), size)]

    def target(self, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether each token's target is in the block, bool[N], and its column there, int64[N, 1] (any, if it is not)."""
        column = self.targets - block.start
        inside = (column >= 0) & (column < block.stop - block.start)
        return inside, column.clamp(0, block.stop - block.start - 1)[:, None]

    def logits(self, block: slice) -> torch.Tensor:
        """float32[N, block]"""
        bias = None if self.bias is None else self.bias[block]
        logits = nn.functional.linear(self.hidden, self.weight[block], bias).float()
        if self.softcap:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits.div_(self.temperature) if self.temperature != 1.0 else logits

    def changes(self, block: slice, normaliser: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """d log p_target / d(output of the layer), [N, block] in the dtype that computes; `logits` are overwritten."""
        slope = 1 - (logits * (self.temperature / self.softcap)).square_() if self.softcap else None
        change = logits.sub_(normaliser[:, None]).exp_().neg_()
        inside, column = self.target(block)
        change.scatter_(1, column, change.gather(1, column) + inside[:, None])
        if slope is not None:
            change *= slope
        if self.temperature != 1.0:
            change /= self.temperature
        return change.to(self.weight.dtype)
