"""What PPO, RLOO and GRPO share: the policy learns from each of its replies by how much better it was than expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from psychocounsel.algo.base import Context, Needs, Outputs, Term, collect_reference
from psychocounsel.algo.online import Online, note_differences
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group

_RATIO_BOUNDS = ("clip", "clip_low", "clip_high", "value_clip")  # of what a step changes after the round's first


@dataclass
class PolicyGradient(Online):
    """Fields of all three.

    `importance_cap`: what writes the replies may compute other log-probabilities than what trains. With a cap, advantages
    are multiplied by the truncated importance weight min(pi_trainer / pi_rollout, cap) (arXiv 1802.01561, eq. 1; for the
    rollouts of language models Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"),
    of each token, or where a reply is one action of the reply.

    `stop_kl`: once `approx_kl`, the mean over a step's tokens of k3 = r - 1 - log r with r = pi / pi_old (Schulman 2020,
    "Approximating KL divergence"), is larger, the policy stays as it is until the next round. The step that finds it is
    the first that does not move the weights; its gradient still enters Adam's averages.

    `entropy` measures the mean entropy of the tokens' distributions in nats; `entropy_weight` times it is taken off the
    loss.
    """

    reference: str = option("initial", choices=("initial", "round"))
    importance_cap: float | None = option(None, above=0)
    stop_kl: float | None = option(None, above=0)
    entropy: bool = True
    entropy_weight: float = option(0.0, at_least=0)

    needs = Needs(models=frozenset({"policy", "reference"}), data="prompts", rollouts=True, reward=True)
    reply_is_one_action: ClassVar[bool] = False

    @property
    def reference_kind(self) -> Literal["none", "initial", "round"]:
        return cast(Literal["initial", "round"], self.reference) if "reference" in self.needs.models else "none"

    @property
    def reads_entropy(self) -> bool:
        return self.entropy

    @property
    def tolerates_stale_rollouts(self) -> bool:
        """With `importance_cap` alone: the loss takes the replies to be the policy's own."""
        return self.importance_cap is not None

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        rollout = config.rollout
        if self.stop_kl is not None and self._round_is_one_step(config):
            raise UserError(
                f"algo.stop_kl={self.stop_kl}: a round is one step, and in it the policy is still the one that wrote; "
                "use algo.passes=2, or a larger algo.prompts_per_round"
            )
        if self.entropy_weight and not self.entropy:
            raise UserError(f"algo.entropy_weight={self.entropy_weight} needs the entropy: use algo.entropy=true")
        if rollout.top_p < 1 or rollout.top_k:
            raise UserError(
                f"rollout.top_p={rollout.top_p} and top_k={rollout.top_k}: {type(self).__name__} learns from replies of "
                "the distribution that it trains; use rollout.top_p=1 rollout.top_k=0, and rollout.temperature"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        found = super().unused(config)
        if self._round_is_one_step(config):
            reason = "a round is one step, in which the ratio to the policy that wrote is 1 (see algo.passes)"
            found |= {item.name: reason for item in fields(self) if item.name in _RATIO_BOUNDS}
        if not self.entropy:
            found["entropy_weight"] = "algo.entropy=false measures no entropy"
        return found

    def _round_is_one_step(self, config: DictConfig) -> bool:
        """Whether every step trains the policy on replies that its present weights wrote."""
        batch = config.global_batch_size
        return self.passes == 1 and (self.prompts_per_round or batch) <= batch

    def gets_gradients(self, engine: str, ctx: Context) -> bool:
        """The policy gets none from the step on after the one that went beyond `stop_kl`, until the round ends."""
        return self.moves_weights(engine, ctx)

    def moves_weights(self, engine: str, ctx: Context) -> bool:
        """The policy stays from the first step of the round that finds it beyond `stop_kl`."""
        return engine != "policy" or self.stop_kl is None or ctx.peaks.get("approx_kl", 0.0) <= self.stop_kl

    def take_logprobs(self, groups: list[Group], ctx: Context) -> list[list[np.ndarray]]:
        """Put the log-probabilities of the policy as it trains in the place of those of the rollout.

        Notes by how much they differ, and returns the importance weight of each token, float32[len] per completion.
        """
        import numpy as np

        weights: list[list[np.ndarray]] = []
        gaps: list[np.ndarray] = []
        for group, logprobs in zip(groups, ctx.logprobs("policy", groups), strict=True):
            weights.append([])
            for completion, now in zip(group.completions, logprobs, strict=True):
                assert completion.logprobs is not None
                gaps.append(now - completion.logprobs)
                weights[-1].append(self.importance(gaps[-1]))
                completion.logprobs = now
        note_differences(gaps, ctx)
        if self.importance_cap is not None:
            ctx.note("importance", float(np.concatenate([each for some in weights for each in some]).mean()))
        return weights

    def importance(self, gap: np.ndarray) -> np.ndarray:
        """float32[len] weights of a reply's tokens from log pi_trainer - log pi_rollout, float32[len]."""
        import numpy as np

        if self.importance_cap is None:
            return np.ones_like(gap)
        gap = np.full_like(gap, gap.sum()) if self.reply_is_one_action else gap
        return np.exp(np.minimum(gap, math.log(self.importance_cap))).astype(np.float32)

    def common_terms(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """`approx_kl` and, if it is asked for, `entropy`, per token."""
        assert outputs.logprobs is not None
        terms = {"approx_kl": Term(k3(outputs.logprobs.detach() - batch.old_logprobs).sum(), "tokens", 0.0)}
        if outputs.entropy is not None:
            terms["entropy"] = Term(outputs.entropy.sum(), "tokens", -self.entropy_weight)
        return terms


def collect_advantages(
    algorithm: PolicyGradient,
    groups: list[Group],
    ctx: Context,
    advantages_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> list[Group]:
    """Fill `logprobs` by the policy as it trains, `ref_logprobs`, and `advantages`, one value for all tokens of a reply.

    `advantages_of` makes float[n] of the n rewards and divergences log pi - log ref of the replies to a prompt.
    """
    import numpy as np

    before = collect_reference(groups, ctx)
    weights = algorithm.take_logprobs(before, ctx)
    for group, of_group in zip(before, weights, strict=True):
        kl = []
        for completion in group.completions:
            assert completion.ref_logprobs is not None and completion.logprobs is not None
            kl.append(float((completion.logprobs - completion.ref_logprobs).sum()))
        advantages = advantages_of(np.array(algorithm.rewards(group, ctx)), np.array(kl))
        for completion, advantage, weight in zip(group.completions, advantages, of_group, strict=True):
            completion.advantages = np.float32(advantage) * weight
    return before


def clipped(
    difference: torch.Tensor, advantages: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's losses (arXiv 1707.06347, eq. 7) and ratios, float[n], of log pi - log pi_old and advantages, float[n]."""
    import torch

    ratio = difference.exp()
    bounded = ratio.clamp(1 - low, 1 + high)
    return torch.maximum(-advantages * ratio, -advantages * bounded), ratio.detach()


def ratio_metrics(ratio: torch.Tensor, low: float, high: float, unit: str) -> dict[str, Term]:
    """The mean ratio, and the share that is outside of the clipping range, of float[units]."""
    outside = ((ratio < 1 - low) | (ratio > 1 + high)).float()
    return {"ratio": Term(ratio.sum(), unit, 0.0), "clip_fraction": Term(outside.sum(), unit, 0.0)}


def k3(difference: torch.Tensor) -> torch.Tensor:
    """float[n] estimates of KL(p || q) from log q - log p of tokens drawn from p: never negative, unbiased, of low variance.

    Schulman 2020, "Approximating KL divergence", the third estimator; arXiv 2402.03300, eq. 4.
    """
    return difference.exp() - difference - 1
