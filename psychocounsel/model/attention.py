"""Attention over packed rows: a completion sees its prompt and itself, never another completion or group.

Three implementations give equal results: `dense` (a mask over all pairs of tokens), `varlen` (each prompt with each of
its completions as a separate sequence) and `flex` (FlexAttention, which skips empty blocks of a mask).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from psychocounsel.data.layout import Layout, Span
from psychocounsel.errors import UserError
from psychocounsel.model.cpu import PRODUCT_ROWS, blockwise_attention, suits_blocks
from psychocounsel.model.gpu import lacking, require_compiler

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


class Attention:
    """The attention implementation chosen for a model, and the inputs that it needs for each batch.

    Raises:
        UserError: if the requested implementation does not support the architecture or the device.
    """

    def __init__(self, config: Any, setting: str, device: str, name: str) -> None:
        from transformers import AttentionInterface

        self.config = config
        self.on_cpu = device == "cpu"
        self.kinds = _layer_kinds(config, name)
        self.capped = bool(getattr(config, "attn_logit_softcapping", None))
        self.drops = bool(getattr(config, "attention_dropout", None))
        self.way = self._choose(setting, device, name)
        AttentionInterface.register(VARLEN, varlen_attention)
        AttentionInterface.register(FLEX, flex_attention)

    @property
    def implementation(self) -> str:
        """The implementation's name in transformers."""
        return {"dense": "eager" if self.capped else "sdpa", "varlen": VARLEN, "flex": FLEX}[self.way]

    @contextmanager
    def plain(self, lm: Any) -> Iterator[None]:
        """Run transformers' own attention in `lm` within this context, for sequences that are not packed."""
        lm.set_attn_implementation("eager" if self.capped else "sdpa")
        try:
            yield
        finally:
            lm.set_attn_implementation(self.implementation)

    @property
    def one_row(self) -> bool:
        """True if a micro-batch is best packed as a single row; only a dense mask grows with the square of the row."""
        return self.way != "dense"

    @property
    def multiple(self) -> int:
        """Return the number that a row's width must be a multiple of [tokens].

        FlexAttention works in blocks. Matrix products on CPU are compiled for each width, which takes time and memory,
        so fewer widths are better.
        """
        return 128 if self.way == "flex" else PRODUCT_ROWS if self.on_cpu else 1

    def inputs(self, batch: Any, dtype: torch.dtype) -> dict[str, Any]:
        """Return the inputs of a transformers model other than tokens and positions."""
        if self.way == "varlen":
            return {"attention_mask": None, "layout": batch.layout}
        windows = {kind: sliding_window(self.config) if kind == "sliding_attention" else None for kind in self.kinds}
        masks = {
            kind: block_mask(batch, window) if self.way == "flex" else self._dense_mask(batch, window, dtype)
            for kind, window in windows.items()
        }
        return {"attention_mask": masks if len(masks) > 1 else masks[self.kinds[0]]}

    def _choose(self, setting: str, device: str, name: str) -> str:
        if setting == "auto":
            if not (self.capped or self.drops):
                return "varlen"
            return "flex" if device == "cuda" and not self.drops and not lacking() else "dense"
        if setting != "dense" and self.drops:
            raise UserError(f"model.attention={setting}: {name} has attention_dropout, which only dense supports")
        if setting == "varlen" and self.capped:
            raise UserError(
                f"model.attention=varlen: {name} caps its attention scores, which only dense and flex support"
            )
        if setting == "flex" and device != "cuda":
            raise UserError("model.attention=flex: needs a GPU for its backward pass; use varlen")
        if setting == "flex":
            require_compiler("model.attention=flex", f"model.attention={'dense' if self.capped else 'varlen'}")
        return setting

    def _dense_mask(self, batch: Any, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Return a mask [B, 1, T, T]: boolean for SDPA, additive in `dtype` for eager attention.

        Distances in a sliding window are differences of position ids, because each completion's ids continue from the
        prompt's.
        """
        group, completion, position = batch.group_index, batch.completion_index, batch.position_ids
        width = position.shape[1]
        visible = torch.ones(width, width, dtype=torch.bool, device=position.device).tril()
        visible = visible & (group[:, :, None] == group[:, None, :])
        visible &= (completion[:, None, :] == 0) | (completion[:, :, None] == completion[:, None, :])
        if window:
            # Padding tokens, all at position 0, still see themselves; otherwise their softmax would be NaN.
            visible &= position[:, :, None] - position[:, None, :] < window
        mask = visible[:, None]
        if not self.capped:
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _layer_kinds(config: Any, name: str) -> list[str]:
    """Return the kinds of attention among the model's layers, each once.

    Raises:
        UserError: for kinds whose packed rows would not equal separate sequences.
    """
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rope in ("dynamic", "longrope"):
        raise UserError(
            f"{name}: its {rope} position embeddings depend on the other rows of a batch, so rows cannot be packed"
        )
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if sliding_window(config) else "full_attention"]
    if unknown := set(kinds) - _KNOWN_LAYERS:
        raise UserError(f"{name}: has {', '.join(sorted(unknown))} layers, in which replies cannot share a prompt")
    if "sliding_attention" in kinds and not sliding_window(config):
        raise UserError(f"{name}: has sliding_attention layers but no sliding_window in its config")
    return sorted(set(kinds))


def sliding_window(config: Any) -> int | None:
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return getattr(config, "sliding_window", None)


# Attention over a row cut into sequences: each is a prompt with one completion, and is computed at its own length.
#
# Tokens of different completions or groups never meet in a product, so only a sliding window can need a mask. On GPU,
# one call of the varlen flash-attention kernel computes all sequences; for heads that the kernel does not support,
# PyTorch's attention is called for each sequence. On CPU, each sequence is one call of PyTorch's fused causal
# attention, or of `blockwise_attention` where that is faster.

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


# FlexAttention over packed batches: a mask in blocks, whose empty blocks cost nothing.
#
# Its kernels are compiled at first use, and again for each new form of call. Row widths are dynamic and cause no
# compilation.

FLEX = "psychocounsel_flex"
BACKEND = "inductor"  # backend of torch.compile
MOST_FORMS = 32  # limit of compilations: with and without gradients, per kind of layer, model, head and dtype


def flex_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention [B, T, heads, D] from [B, heads, T, D], as transformers' attention functions do.

    `attention_mask` is a BlockMask.

    Raises:
        UserError: after too many compilations, because torch would then compute the full matrix of scores.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit

    # A tensor, because with dynamic=True torch cannot trace a float of the closure when gradients are needed.
    cap = None if softcap is None else torch.full((), softcap, device=query.device)

    def capped(score: torch.Tensor, *place: torch.Tensor) -> torch.Tensor:
        return score if cap is None else cap * torch.tanh(score / cap)

    shared = query.shape[1] != key.shape[1]
    try:
        output = _compiled(BACKEND)(
            query, key, value, score_mod=capped, block_mask=attention_mask, scale=scaling, enable_gqa=shared
        )
    except FailOnRecompileLimitHit as error:
        raise UserError(
            f"model.attention=flex: torch has compiled {MOST_FORMS} forms of its kernel and stops at this limit; use "
            "model.attention=varlen, or dense if the model caps its scores"
        ) from error
    return output.transpose(1, 2).contiguous(), None


@cache
def _compiled(backend: str) -> Callable[..., torch.Tensor]:
    from torch.nn.attention import flex_attention as flex

    # With fullgraph torch raises at the limit; otherwise it would compute uncompiled.
    compiled: Callable[..., torch.Tensor] = torch.compile(
        flex.flex_attention, dynamic=True, fullgraph=True, recompile_limit=MOST_FORMS, backend=backend
    )
    return compiled


def block_mask(batch: Any, window: int | None) -> Any:
    """Return a BlockMask over [B, T] tokens: causal, within a group, only own completion and prompt, `window` tokens back."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, width = batch.input_ids.shape
    return create_block_mask(visible(batch, window), rows, None, width, width, device=batch.input_ids.device)


def visible(batch: Any, window: int | None) -> Any:
    """Return the function of (row, head, query, key) indices that is True if the query sees the key."""
    group, completion, position = batch.group_index, batch.completion_index, batch.position_ids

    def sees(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        same_group = group[row, query] == group[row, key]
        own = (completion[row, key] == 0) | (completion[row, key] == completion[row, query])
        seen = (query >= key) & same_group & own
        return seen & (position[row, query] - position[row, key] < window) if window else seen

    return sees
