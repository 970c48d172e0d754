"""GRPO's loss against TRL's, with weights of the ratio of trainer and rollout, and with the divergence weighed by its ratio."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOTrainer

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.grpo import GRPO
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Completion, Group

LENGTHS = [5, 3, 7, 2, 4, 6]
LONGEST = max(LENGTHS)
ADVANTAGES = [1.2, -0.7, 0.3, -1.5, 0.9, -0.2]


def padded(values: list[np.ndarray]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.pad(each, (0, LONGEST - len(each)))) for each in values])


def tokens(seed: int, mean: float, spread: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(mean, spread, length).astype(np.float32) for length in LENGTHS]


OLD, NOISE, REFERENCE = tokens(0, -2, 0.5), tokens(1, 0, 0.3), tokens(2, -2, 0.5)
ROLLOUT = [old + gap for old, gap in zip(OLD, tokens(3, 0, 0.6), strict=True)]
MASK = padded([np.ones(length, np.float32) for length in LENGTHS])


def trl_ratios(mode: str, low: float | None, high: float | None) -> torch.Tensor:
    """Return what TRL's `vllm_importance_sampling_mode` makes of the ratios of each token."""
    ratios = ((padded(OLD) - padded(ROLLOUT)) * MASK).exp()
    if mode == "token_truncate":
        return ratios.clamp(min=low, max=high)
    outside = (ratios < (low or 0.0)) | (ratios > (high or np.inf))
    return ratios.masked_fill(outside, 0.0)


def trl_gradient(kind: str, level: str, unbiased: bool, ratios: torch.Tensor | None) -> tuple[float, torch.Tensor]:
    """Return TRL's loss, and its gradient for the log-probabilities [replies, LONGEST]."""
    logprobs = (padded(OLD) + padded(NOISE)).requires_grad_()
    accelerator = SimpleNamespace(gather=lambda value: value, reduce=lambda value, reduction: value, num_processes=1)
    trainer: Any = SimpleNamespace(
        **{"_get_per_token_logps_and_entropies": lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None)},
        **{"aux_loss_enabled": False, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "beta": 0.2},
        **{"importance_sampling_level": level, "loss_type": kind, "epsilon_low": 0.1, "epsilon_high": 0.3},
        **{"use_vllm": ratios is not None, "vllm_importance_sampling_correction": True, "max_completion_length": 11},
        **{"current_gradient_accumulation_steps": 1, "_entropy_bonus_enabled": False, "accelerator": accelerator},
        **{"model": SimpleNamespace(training=True), "_metrics": {"train": defaultdict(list)}},
        args=SimpleNamespace(use_bias_correction_kl=unbiased, delta=None, steps_per_generation=1),
    )
    inputs = {
        **{"prompt_ids": torch.ones(6, 2).long(), "prompt_mask": torch.ones(6, 2).long()},
        **{
            "completion_ids": torch.ones(6, LONGEST).long(),
            "completion_mask": MASK,
            "advantages": torch.tensor(ADVANTAGES),
        },
        **{"old_per_token_logps": padded(OLD), "ref_per_token_logps": padded(REFERENCE)},
        **{"importance_sampling_ratio": ratios, "num_items_in_batch": MASK.sum()},
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), gradient


def our_gradient(algorithm: GRPO) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return our loss, its gradient [replies, LONGEST], and the kept tokens as a mask of that shape."""
    replies = []
    for length, old, rollout, reference, advantage in zip(LENGTHS, OLD, ROLLOUT, REFERENCE, ADVANTAGES, strict=True):
        weights = algorithm.importance(old - rollout)
        values = {"logprobs": old, "ref_logprobs": reference, "advantages": np.float32(advantage) * weights}
        reply = Completion(np.ones(length, np.int32), **values)
        replies.append(reply.with_trained(weights != 0) if algorithm.masks else reply)
    trained = [np.ones(len(reply.ids), bool) if reply.trained is None else reply.trained for reply in replies]
    kept = padded([mask.astype(np.float32) for mask in trained])
    whole = (padded(OLD) + padded(NOISE)).requires_grad_()
    batch = build_batch([[Group("a", np.ones(2, np.int32), replies)]])
    terms = algorithm.loss(Outputs(logprobs=whole[kept.bool()]), batch)
    units = {"tokens": int(kept.sum()), "completions": len(replies)}
    loss = sum((term.weight * term.sum / units[term.unit] for term in terms.values()), torch.zeros(()))
    (gradient,) = torch.autograd.grad(loss, whole)
    return loss.item(), gradient, kept


# Our mean over tokens, and TRL's of the same.
AGGREGATES = {"reply": "grpo", "tokens": "bnpo", "budget": "dr_grpo"}


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("cap", [None, 1.2, 2.0])
def test_truncated_weights_and_the_unbiased_divergence_equal_trl(
    cap: float | None, unbiased: bool, aggregate: str
) -> None:
    algorithm = GRPO(
        **{"kl_weight": 0.2, "clip_low": 0.1, "clip_high": 0.3, "aggregate": aggregate, "budget": 11},
        importance_cap=cap,
        kl_unbiased=unbiased,
    )
    ratios = None if cap is None else trl_ratios("token_truncate", None, cap)
    theirs, gradient = trl_gradient(AGGREGATES[aggregate], "token", unbiased, ratios)
    ours, mine, _ = our_gradient(algorithm)
    assert ours == pytest.approx(theirs, rel=1e-5)
    torch.testing.assert_close(mine, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("floor", [0.3, 0.8])
def test_a_floor_masks_what_trl_masks_and_does_not_count_it(floor: float) -> None:
    """TRL multiplies masked tokens by 0, but divides by their number, and keeps their divergence."""
    algorithm = GRPO(
        kl_weight=0.0, clip_low=0.1, clip_high=0.3, aggregate="tokens", importance_floor=floor, importance_cap=1e9
    )
    theirs, gradient = trl_gradient("bnpo", "token", False, trl_ratios("token_mask", floor, None))
    without, of_divergence = trl_gradient("bnpo", "token", False, torch.zeros_like(MASK))
    ours, mine, kept = our_gradient(algorithm)
    share = kept.sum() / MASK.sum()
    assert 0.3 < share < 1
    assert ours * share == pytest.approx(theirs - without, rel=1e-4)
    torch.testing.assert_close(mine * share, gradient - of_divergence, rtol=1e-3, atol=1e-6)
