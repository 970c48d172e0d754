"""Attention masks for packed rows: a completion sees its prompt and itself, never a sibling or another group."""

from typing import Any

import torch

from psychocounsel.errors import UserError

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def implementation(config: Any) -> str:
    """The attention that computes this architecture exactly: SDPA, or eager where scores are soft-capped."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def layer_kinds(config: Any, name: str) -> list[str]:
    """The kinds of attention among the model's layers, each of them once.

    Raises:
        UserError: for kinds whose packed rows would not equal separate sequences.
    """
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rope in ("dynamic", "longrope"):
        raise UserError(
            f"{name}: its {rope} position embeddings depend on what else is in the batch, so rows cannot be packed"
        )
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if _window(config) else "full_attention"]
    if unknown := set(kinds) - _KNOWN_LAYERS:
        raise UserError(f"{name}: has {', '.join(sorted(unknown))} layers, which cannot share a prompt between replies")
    if "sliding_attention" in kinds and not _window(config):
        raise UserError(f"{name}: has sliding_attention layers but no sliding_window in its config")
    return sorted(set(kinds))


def _window(config: Any) -> int | None:
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return getattr(config, "sliding_window", None)


def build_mask(
    config: Any,
    kinds: list[str],
    position_ids: torch.Tensor,
    group_index: torch.Tensor,
    completion_index: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """The mask of a Batch, [B, 1, T, T]: boolean for SDPA, additive in `dtype` for eager; by kind if there are two.

    Distances in a sliding window are differences of position ids, which run on from the prompt in each completion.
    """
    width = position_ids.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=position_ids.device).tril()
    same_group = group_index[:, :, None] == group_index[:, None, :]
    visible = (completion_index[:, None, :] == 0) | (completion_index[:, :, None] == completion_index[:, None, :])
    full = causal & same_group & visible
    masks = {"full_attention": full}
    if "sliding_attention" in kinds:
        distance = position_ids[:, :, None] - position_ids[:, None, :]
        window = _window(config)
        # A padding token keeps sight of itself, or its softmax would be NaN.
        masks["sliding_attention"] = full & (distance < window)
    chosen = {kind: _as_needed(config, masks[kind][:, None], dtype) for kind in kinds}
    return chosen if len(chosen) > 1 else chosen[kinds[0]]


def _as_needed(config: Any, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if implementation(config) == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
