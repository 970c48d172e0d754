"""Attention over a row cut into sequences: a prompt and one completion at a time, each of its own length.

No mask, no padding, and no product of tokens that do not see each other. On CPU each sequence is one call of PyTorch's
fused causal attention; on GPU all are one call of the varlen flash-attention kernel.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from psychocounsel.data.layout import Layout

VARLEN = "psychocounsel_varlen"


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """[1, T, heads, D] from [1, heads, T, D], as transformers' attention functions; without `layout` rows are sequences."""
    if query.is_cuda and layout is not None:
        return _on_gpu(query, key, value, layout, scaling, sliding_window), None
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, 1) if repeats > 1 else part for part in (key, value))
    settings = {"scale": scaling, "dropout_p": dropout}
    if layout is None:
        return _causal([query, key, value], sliding_window, settings).transpose(1, 2), None
    parts = [part.split(list(layout.sizes), 2) for part in (query, key, value)]
    outputs: list[torch.Tensor] = []
    for index, prompt in enumerate(layout.prompts):
        if prompt == index and prompt + 1 < len(layout.prompts) and layout.prompts[prompt + 1] == prompt:
            continue  # computed with its first completion, which follows
        if prompt == index:
            outputs.append(_causal([part[index] for part in parts], sliding_window, settings))
            continue
        whole = _causal([torch.cat([part[prompt], part[index]], 2) for part in parts], sliding_window, settings)
        outputs.append(whole if index == prompt + 1 else whole[:, :, layout.sizes[prompt] :])
    return torch.cat(outputs, 2).transpose(1, 2), None


def _causal(parts: list[torch.Tensor], window: int | None, settings: dict[str, Any]) -> torch.Tensor:
    query, key, value = parts
    length = query.shape[2]
    if window is None or length <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, **settings)
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, **settings)


def _on_gpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Queries once, keys and values of a prompt once for itself and once for each completion."""
    from torch.nn.attention.varlen import varlen_attn

    seen, query_starts, key_starts = layout.on(query.device)
    rows = [part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value)]
    output = varlen_attn(
        rows[0].contiguous(),
        rows[1][seen],
        rows[2][seen],
        query_starts,
        key_starts,
        max(layout.sizes),
        max(layout.seen_sizes),
        scale=scaling,
        window_size=((window or 0) - 1, 0),  # causal, aligned at the end; -1: no window
        enable_gqa=True,
    )
    assert isinstance(output, torch.Tensor)
    return output[None]


def register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, varlen_attention)
