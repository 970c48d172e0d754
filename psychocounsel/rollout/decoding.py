"""One token after another by transformers: keys and values that stay where they are, and attention that copies none."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from psychocounsel.model.cpu import reordered
from psychocounsel.model.packed import PackedModel

_NAME = "psychocounsel_decoding"
_ROOM = 64  # tokens more than there are, when keys and values must move


@contextmanager
def decoding(policy: PackedModel, partitioned: bool) -> Iterator[None]:
    """Let the language model of `policy` write token by token; no weight may change. Gradients there are none."""
    attention, lm = policy.attention, policy.lm
    with torch.no_grad(), attention.plain(lm), nullcontext() if partitioned else reordered(lm):
        if not attention.capped:
            AttentionInterface.register(_NAME, _attention)
            AttentionMaskInterface.register(_NAME, sdpa_mask)
            lm.set_attn_implementation(_NAME)
        yield


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """[B, T, heads, D] from [B, heads, T, D] and [B, kv heads, S, D], as transformers' attention functions.

    For a single token the heads that share keys and values are to the kernel what tokens are, so that nothing is repeated.
    """
    rows, heads, tokens, size = query.shape
    if tokens > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    shared = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    output = torch.nn.functional.scaled_dot_product_attention(
        shared, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(rows, 1, heads, size), None


class Cache(DynamicCache):
    """transformers' cache for `config`, whose layers of full attention do not move with every token."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.layers: list[Any] = [_Layer() if type(layer) is DynamicLayer else layer for layer in self.layers]


class _Layer(DynamicLayer):
    """`keys` and `values` are the beginning of tensors that have room for more tokens."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.room = (self.keys, self.values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if self.room[0].shape[0] != len(key_states) or self.room[0].shape[2] < end:
            self.room = _with_room(self.keys, end), _with_room(self.values, end)
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values


def _with_room(tensor: torch.Tensor, length: int) -> torch.Tensor:
    rows, heads, there, size = tensor.shape
    room = tensor.new_empty(rows, heads, length + _ROOM, size)
    room[:, :, :there] = tensor
    return room
