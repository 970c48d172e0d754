"""How packed rows are attended to: a completion sees its prompt and itself, never a sibling or another group.

Three ways with equal results: `dense` (a mask of all pairs of tokens), `varlen` (each prompt with each of its completions,
by itself) and `flex` (FlexAttention, which skips the blocks of a mask that are empty).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from psychocounsel.errors import UserError
from psychocounsel.model.cpu import PRODUCT_ROWS
from psychocounsel.model.gpu.compiler import lacking, require_compiler
from psychocounsel.model.gpu.flex import FLEX, block_mask, register_flex
from psychocounsel.model.varlen import VARLEN, register_varlen

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


class Attention:
    """The way chosen for a model, and what it needs of each batch.

    Raises:
        UserError: if the architecture or the device cannot be served by the way that was asked for, saying why.
    """

    def __init__(self, config: Any, asked: str, device: str, name: str) -> None:
        self.config = config
        self.on_cpu = device == "cpu"
        self.kinds = _layer_kinds(config, name)
        self.capped = bool(getattr(config, "attn_logit_softcapping", None))
        self.drops = bool(getattr(config, "attention_dropout", None))
        self.way = self._choose(asked, device, name)
        register_varlen()
        register_flex()

    @property
    def implementation(self) -> str:
        """What transformers calls it."""
        return {"dense": "eager" if self.capped else "sdpa", "varlen": VARLEN, "flex": FLEX}[self.way]

    @contextmanager
    def plain(self, lm: Any) -> Iterator[None]:
        """Let transformers' own attention run in `lm`, for sequences that are not packed."""
        lm.set_attn_implementation("eager" if self.capped else "sdpa")
        try:
            yield
        finally:
            lm.set_attn_implementation(self.implementation)

    @property
    def one_row(self) -> bool:
        """Whether a micro-batch is best packed as a single row: only a dense mask grows with the row's square."""
        return self.way != "dense"

    @property
    def multiple(self) -> int:
        """What the width of a row is to be a multiple of: FlexAttention works in blocks.

        So do matrix products on CPU, in a millisecond and a quarter of a megabyte each, which they keep.
        """
        return 128 if self.way == "flex" else PRODUCT_ROWS if self.on_cpu else 1

    def inputs(self, batch: Any, dtype: torch.dtype) -> dict[str, Any]:
        """What a transformers model is called with besides tokens and positions."""
        if self.way == "varlen":
            return {"attention_mask": None, "layout": batch.layout}
        make = self._block_mask if self.way == "flex" else self._dense_mask
        masks = {
            kind: make(batch, sliding_window(self.config) if kind == "sliding_attention" else None, dtype)
            for kind in self.kinds
        }
        return {"attention_mask": masks if len(masks) > 1 else masks[self.kinds[0]]}

    def _choose(self, asked: str, device: str, name: str) -> str:
        if asked == "auto":
            if not (self.capped or self.drops):
                return "varlen"
            return "flex" if device == "cuda" and not self.drops and not lacking() else "dense"
        if asked != "dense" and self.drops:
            raise UserError(f"model.attention={asked}: {name} has attention_dropout, which only dense does")
        if asked == "varlen" and self.capped:
            raise UserError(f"model.attention=varlen: {name} caps its attention scores, which only dense and flex do")
        if asked == "flex" and device != "cuda":
            raise UserError("model.attention=flex: has no backward pass without a GPU; use varlen")
        if asked == "flex":
            require_compiler("model.attention=flex", f"model.attention={'dense' if self.capped else 'varlen'}")
        return asked

    def _block_mask(self, batch: Any, window: int | None, dtype: torch.dtype) -> Any:
        return block_mask(batch, window)

    def _dense_mask(self, batch: Any, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """[B, 1, T, T]: boolean for SDPA, additive in `dtype` for eager.

        Distances in a sliding window are differences of position ids, which run on from the prompt in each completion.
        """
        group, completion, position = batch.group_index, batch.completion_index, batch.position_ids
        width = position.shape[1]
        visible = torch.ones(width, width, dtype=torch.bool, device=position.device).tril()
        visible = visible & (group[:, :, None] == group[:, None, :])
        visible &= (completion[:, None, :] == 0) | (completion[:, :, None] == completion[:, None, :])
        if window:
            # A padding token keeps sight of itself, or its softmax would be NaN.
            visible &= position[:, :, None] - position[:, None, :] < window
        mask = visible[:, None]
        if not self.capped:
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _layer_kinds(config: Any, name: str) -> list[str]:
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
        kinds = ["sliding_attention" if sliding_window(config) else "full_attention"]
    if unknown := set(kinds) - _KNOWN_LAYERS:
        raise UserError(f"{name}: has {', '.join(sorted(unknown))} layers, which cannot share a prompt between replies")
    if "sliding_attention" in kinds and not sliding_window(config):
        raise UserError(f"{name}: has sliding_attention layers but no sliding_window in its config")
    return sorted(set(kinds))


def sliding_window(config: Any) -> int | None:
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return getattr(config, "sliding_window", None)
