"""Token-by-token decoding by transformers, without copying all keys and values for each token."""

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
_ROOM = 64  # spare tokens allocated whenever keys and values outgrow their tensors


@contextmanager
def decoding(policy: PackedModel, partitioned: bool) -> Iterator[None]:
    """Context in which the language model of `policy` decodes token by token, without gradients.

    The weights must not change inside. `partitioned`: True if ZeRO-3 shards them.
    """
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
    """Attention function in transformers' interface: [B, T, heads, D] from [B, heads, T, D] and [B, kv heads, S, D].

    For a single token, query heads that share keys and values are passed to the kernel as tokens, so that keys and
    values are not repeated.
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
    """Key-value cache of transformers for `config`, whose full-attention layers are not reallocated at every token."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.layers: list[Any] = [_Layer() if type(layer) is DynamicLayer else layer for layer in self.layers]

    @property
    def sees_everything(self) -> bool:
        """True if every layer attends to all earlier tokens."""
        return all(isinstance(layer, _Layer) for layer in self.layers)


class _Layer(DynamicLayer):
    """Cache layer whose `keys` and `values` are views of larger tensors with room for more tokens."""

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
