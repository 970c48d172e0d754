"""`model.kernels=liger`: fused GPU kernels of Liger for norms, rotary embeddings and gated MLPs (arXiv 2410.10989)."""

from typing import Any

from psychocounsel.errors import UserError

_PARTS = {"rope": True, "rms_norm": True, "swiglu": True, "geglu": True}
_LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}  # the algorithms have losses of their own


def use_liger(lm: Any, name: str) -> None:
    """Replace norms and MLPs of a transformers model in place, and the rotary embeddings of its architecture.

    Raises:
        UserError: if Liger has no kernels for the architecture.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel

    kind = lm.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(
            f"model.kernels=liger: Liger has no kernels for {kind}, the architecture of {name}; use model.kernels=plain"
        )
    apply_liger_kernel(lm, _PARTS | _LOSSES)
