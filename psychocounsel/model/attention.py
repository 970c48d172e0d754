"""Attention over packed rows: a completion sees its prompt and itself, never another completion or group.

Three implementations give equal results: `dense` (a mask over all pairs of tokens), `varlen` (each prompt with each of
its completions as a separate sequence) and `flex` (FlexAttention, which skips empty blocks of a mask).
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
    """The attention implementation chosen for a model, and the inputs that it needs for each batch.

    Raises:
        UserError: if the requested implementation does not support the architecture or the device.
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
            raise UserError(f"model.attention={asked}: {name} has attention_dropout, which only dense supports")
        if asked == "varlen" and self.capped:
            raise UserError(
                f"model.attention=varlen: {name} caps its attention scores, which only dense and flex support"
            )
        if asked == "flex" and device != "cuda":
            raise UserError("model.attention=flex: needs a GPU for its backward pass; use varlen")
        if asked == "flex":
            require_compiler("model.attention=flex", f"model.attention={'dense' if self.capped else 'varlen'}")
        return asked

    def _block_mask(self, batch: Any, window: int | None, dtype: torch.dtype) -> Any:
        return block_mask(batch, window)

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
