"""Attention over a row cut into sequences: each is a prompt with one completion, and is computed at its own length.

Tokens of different completions or groups never meet in a product, so only a sliding window can need a mask. On GPU, one
call of the varlen flash-attention kernel computes all sequences; for heads that the kernel does not support, PyTorch's
attention is called for each sequence. On CPU, each sequence is one call of PyTorch's fused causal attention, or of
`blockwise_attention` where that is faster.
"""

from typing import Any

import torch

from psychocounsel.data.layout import Layout, Span
from psychocounsel.model.cpu import blockwise_attention, suits_blocks

VARLEN = "psychocounsel_varlen"

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention [B, T, heads, D] from [B, heads, T, D], as transformers' attention functions do.

    Without `layout`, a row is one sequence.
    """
    layout = layout or Layout([query.shape[2]], [0])
    if query.is_cuda:
        on_gpu = _by_one_kernel if _suits_flash(query) else by_sequence
        return on_gpu(query, key, value, layout, scaling, sliding_window), None
    attend = blockwise_attention if suits_blocks(query) else _Sequences.apply
    output: torch.Tensor = attend(query, key, value, layout, scaling, sliding_window)
    return output.transpose(1, 2), None


class _Sequences(torch.autograd.Function):
    """Fused causal attention, one sequence after the other; it keeps its arguments and output, but no copies of parts."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: Layout,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        ctx.normalisers = []
        for span in layout.sequences:
            parts = _parts(query, key, value, span)
            result, normaliser = _forward(*parts, 0.0, **_seen(span, window, query), scale=scale)
            _put(output, result, span)
            ctx.normalisers.append(normaliser)
        ctx.save_for_backward(query, key, value, output)
        ctx.how = layout, scale, window
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        layout, scale, window = ctx.how
        to_query, to_key, to_value = (torch.empty_like(part) for part in (query, key, value))
        for span, normaliser in zip(layout.sequences, ctx.normalisers, strict=True):
            whole = _cut(grad, span)
            if not span.is_whole:  # the prompt's output belongs to the first completion, which gets its gradient
                whole[:, :, : span.prompt] = 0
            parts = [whole, *_parts(query, key, value, span), _cut(output, span), normaliser, 0.0]
            slopes = _backward(*parts, **_seen(span, window, query), scale=scale)
            _put(to_query, slopes[0], span)
            for to, slope in ((to_key, slopes[1]), (to_value, slopes[2])):
                shared = slope.unflatten(1, (to.shape[1], -1)).sum(2)
                _put(to, shared, span)
                if not span.is_whole:
                    to[:, :, span.begin : span.end] += shared[:, :, : span.prompt]
        return to_query, to_key, to_value, None, None, None


def _parts(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, span: Span) -> list[torch.Tensor]:
    """Return a sequence's queries, keys and values, with keys and values repeated for all query heads."""
    repeats = query.shape[1] // key.shape[1]
    parts = [_cut(part, span) for part in (query, key, value)]
    return [parts[0], *(part.repeat_interleave(repeats, 1) if repeats > 1 else part for part in parts[1:])]


def _cut(rows: torch.Tensor, span: Span) -> torch.Tensor:
    """Return a sequence's part of [B, heads, T, D]: a view if it is contiguous in the row, otherwise a copy."""
    if span.is_whole:
        return rows[:, :, span.begin : span.stop]
    return torch.cat([rows[:, :, span.begin : span.end], rows[:, :, span.start : span.stop]], 2)


def _put(rows: torch.Tensor, part: torch.Tensor, span: Span) -> None:
    """Write a sequence's own part into [B, heads, T, D]; it includes the prompt if the completion directly follows it."""
    if span.is_whole:
        rows[:, :, span.begin : span.stop] = part
    else:
        rows[:, :, span.start : span.stop] = part[:, :, span.prompt :]


def _seen(span: Span, window: int | None, like: torch.Tensor) -> dict[str, Any]:
    """Return the kernel's arguments for visible tokens; a mask has dtype and device of `like`."""
    if window is None or span.length <= window:
        return {"is_causal": True}
    seen = torch.ones(span.length, span.length, dtype=torch.bool, device=like.device).tril_().triu_(1 - window)
    mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)
    return {"is_causal": False, "attn_mask": mask}


def _suits_flash(query: torch.Tensor) -> bool:
    """Return True if PyTorch's flash attention supports these heads on this GPU (Ampere or newer), forward and backward."""
    size, halves = query.shape[-1], query.dtype in (torch.bfloat16, torch.float16)
    return halves and size % 8 == 0 and size <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def by_sequence(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Return the attention [B, T, heads, D], one sequence after the other, for any dtype and device."""
    pieces = []
    for span in layout.sequences:
        parts = _parts(query, key, value, span)
        piece = torch.nn.functional.scaled_dot_product_attention(*parts, **_seen(span, window, query), scale=scaling)
        # The first completion's piece includes the prompt.
        pieces.append(piece if span.is_whole else piece[:, :, span.prompt :])
    return torch.cat(pieces, 2).transpose(1, 2)


def _by_one_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Return the attention by one kernel call: queries once, a prompt's keys and values for itself and each completion."""
    from torch.nn.attention.varlen import varlen_attn

    seen, query_starts, key_starts = layout.on(query.device)
    rows = [part[0].transpose(0, 1) for part in (query, key, value)]
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


def register_varlen() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, varlen_attention)
