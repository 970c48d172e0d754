"""Kernels that are compiled on a GPU at first use: the compiler they require, and Liger's norms, rotary embeddings and MLPs."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError

# Triton compiles a small C module for each GPU kernel.


def lacking() -> str:
    """Return the name of a program or file that Triton needs and this machine lacks; "" if nothing is missing."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc)"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "the headers of Python (Python.h; the package python3-dev)"
    return ""


def require_compiler(setting: str, instead: str) -> None:
    """Refuse `setting`, whose kernels Triton compiles, if this machine lacks a compiler; `instead` is the alternative to offer.

    Raises:
        UserError: naming the package to install.
    """
    if missing := lacking():
        raise UserError(
            f"{setting}: its GPU kernels are compiled here at first use, but {missing} is missing: install it, "
            f"load a module that has it, or use {instead}"
        )


# `model.kernels`: Liger's fused kernels for norms, rotary embeddings and gated MLPs (arXiv 2410.10989)

_PARTS = {"rope": True, "rms_norm": True, "swiglu": True, "geglu": True}
_LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}  # the algorithms have losses of their own


def set_kernels(lm: Any, kernels: str, name: str, device: str) -> None:
    """Give a transformers model the kernels that `model.kernels` names. With "auto" an architecture that Liger lacks stays plain.

    Raises:
        UserError: for "liger", if Liger has no kernels for the architecture.
    """
    if chosen_kernels(kernels, device) == "liger" and (kernels == "liger" or _knows(lm.config.model_type)):
        use_liger(lm, name)


def chosen_kernels(kernels: str, device: str) -> str:
    """Return "plain" or "liger"; "auto" is "liger" on a GPU if the package and the compiler that it needs are here."""
    if kernels != "auto":
        return kernels
    runs = device == "cuda" and importlib.util.find_spec("liger_kernel") is not None and not lacking()
    return "liger" if runs else "plain"


def _knows(kind: str) -> bool:
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    return kind in MODEL_TYPE_TO_APPLY_LIGER_FN


def use_liger(lm: Any, name: str) -> None:
    """Replace norms and MLPs of a transformers model in place, and the rotary embeddings of its architecture.

    Raises:
        UserError: if Liger has no kernels for the architecture.
    """
    from transformers.integrations.liger import apply_liger_kernel

    kind = lm.config.model_type
    if not _knows(kind):
        raise UserError(
            f"model.kernels=liger: Liger has no kernels for {kind}, the architecture of {name}; use model.kernels=plain"
        )
    apply_liger_kernel(lm, _PARTS | _LOSSES)
