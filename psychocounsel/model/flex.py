"""FlexAttention's view of a packed batch: a mask in blocks, of which the empty ones cost nothing."""

from typing import Any

import torch


def block_mask(batch: Any, window: int | None) -> Any:
    """A BlockMask over [B, T] tokens: causal, within a group, a completion's own and its prompt's, `window` tokens far."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, width = batch.input_ids.shape
    return create_block_mask(visible(batch, window), rows, None, width, width, device=batch.input_ids.device)


def visible(batch: Any, window: int | None) -> Any:
    """The function of (row, head, query, key) indices that says whether the query sees the key."""
    group, completion, position = batch.group_index, batch.completion_index, batch.position_ids

    def sees(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        same_group = group[row, query] == group[row, key]
        own = (completion[row, key] == 0) | (completion[row, key] == completion[row, query])
        seen = (query >= key) & same_group & own
        return seen & (position[row, query] - position[row, key] < window) if window else seen

    return sees
