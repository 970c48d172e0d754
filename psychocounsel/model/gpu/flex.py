"""FlexAttention over packed batches: a mask in blocks, whose empty blocks cost nothing.

Its kernels are compiled at first use, and again for each new form of call. Row widths are dynamic and cause no
compilation.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from psychocounsel.errors import UserError

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

    def capped(score: torch.Tensor, *place: torch.Tensor) -> torch.Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

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


def register_flex() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(FLEX, flex_attention)
