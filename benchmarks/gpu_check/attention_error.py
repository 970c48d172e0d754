"""Rows that compare the error of attention and kernels in bf16 with the error of the plain implementation in bf16.

Errors are measured against the plain implementation in float32. A kernel passes if its error is due to bf16 alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from psychocounsel.data.batch import Batch, build_batch
from psychocounsel.data.group import Completion, Group
from psychocounsel.model.gpu import use_liger
from psychocounsel.model.packed import Policy

Verdict = tuple[bool, str, dict[str, Any]]

_ALLOWED = 1.5  # largest allowed ratio to the error of the plain implementation
_ROUNDING = 1e-5  # allowed error in float32, where the plain implementation has error 0
_SIZES = {
    **{"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 1024},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 1024},
}
_KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 64},
    "gemma2": {"sliding_window": 64, "attn_logit_softcapping": 20.0, "query_pre_attn_scalar": 64},
}


def varlen(folder: Path, data: Path) -> Verdict:
    return attention("varlen", ("llama", "mistral"), "cuda", torch.bfloat16)


def flex(folder: Path, data: Path) -> Verdict:
    return attention("flex", ("llama", "mistral", "gemma2"), "cuda", torch.bfloat16)


def liger(folder: Path, data: Path) -> Verdict:
    """Compare Liger's norms, rotary embeddings and MLPs with the plain ones, with varlen attention."""
    errors = {}
    for kind in ("llama", "mistral"):
        truth = found(kind, "dense", "cuda", torch.float32)
        errors[kind] = {
            kernels: distances(found(kind, "varlen", "cuda", torch.bfloat16, kernels), truth)
            for kernels in ("plain", "liger")
        }
    return verdict(errors, "plain", "liger")


def attention(way: str, kinds: tuple[str, ...], device: str, dtype: torch.dtype) -> Verdict:
    """Compare log-probabilities and gradients of the attention `way` in `dtype` with those of dense attention."""
    errors = {}
    for kind in kinds:
        truth = found(kind, "dense", device, torch.float32)
        errors[kind] = {
            name: distances(found(kind, each, device, dtype), truth) for name, each in (("dense", "dense"), (way, way))
        }
    return verdict(errors, "dense", way)


def verdict(errors: dict[str, dict[str, dict[str, float]]], plain: str, other: str) -> Verdict:
    """Return (met, figure, errors). `met` is True if no error of `other` exceeds `_ALLOWED` times that of `plain`."""
    parts, met = [], True
    for kind, error in errors.items():
        for result, allowed in error[plain].items():
            value = error[other][result]
            met &= value <= max(_ALLOWED * allowed, _ROUNDING)
            parts.append(f"{kind} {result} {value:.1e} ({plain} {allowed:.1e})")
    return bool(met), "; ".join(parts), errors


def found(kind: str, way: str, device: str, dtype: torch.dtype, kernels: str = "plain") -> dict[str, torch.Tensor]:
    """Return log-probabilities of random replies, and gradients of their weighted sum, as float32 on the CPU."""
    policy = _policy(kind, way, device, dtype, kernels)
    batch = _batch(policy).to(torch.device(device))
    logprobs = policy(batch)
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(1)).to(device)
    (logprobs * weights).sum().backward()
    gradients = [parameter.grad.flatten() for parameter in policy.parameters() if parameter.grad is not None]
    return {"logprobs": logprobs.detach().float().cpu(), "gradients": torch.cat(gradients).float().cpu()}


def distances(values: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return |value - truth| / |truth| of each result."""
    return {name: float((values[name] - truth[name]).norm() / truth[name].norm()) for name in truth}


def _policy(kind: str, way: str, device: str, dtype: torch.dtype, kernels: str) -> Policy:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    config = AutoConfig.for_model(kind, **_SIZES, **_KINDS[kind])
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # the same weights in every dtype
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    lm.config.use_cache = False
    if kernels == "liger":
        use_liger(lm, kind)
    return Policy(lm.to(dtype), kind, attention=way, device=device).to(device)


def _batch(policy: Policy) -> Batch:
    """Return one packed row of 12 prompts with three replies each, of different lengths."""
    rng = np.random.default_rng(0)

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(0, _SIZES["vocab_size"], rng.integers(low, high), dtype=np.int32)

    groups = [Group(f"g{n}", ids(10, 100), [Completion(ids(5, 60)) for _ in range(3)]) for n in range(12)]
    return build_batch([groups], multiple=policy.attention.multiple)
