"""Common parts of PPO, RLOO, GRPO and distillation: the policy makes replies that were better than expected more likely."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from psychocounsel.algo.base import Context, Needs, Outputs, Term
from psychocounsel.algo.online import Online, Rollouts, note_differences
from psychocounsel.counsel.pairs import rewards_differ
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import target_class

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Completion, Group

# These fields have no effect in a round's first step, because the policy and the critic have not changed yet.
_OF_RATIO = ("clip", "clip_low", "clip_high", "value_clip", "ratio")
_MASKS = ("importance_floor", "sequence_floor", "sequence_ceiling")


@dataclass
class AdvantageAlgorithm(Rollouts):
    """Base of algorithms that make tokens with a positive advantage more likely, wherever the advantages come from.

    `importance_cap`: corrects for a rollout that computes other log-probabilities than the trainer. Advantages are
    multiplied by the truncated importance weight min(pi_trainer / pi_rollout, cap) (arXiv 1802.01561, eq. 1; for
    language model rollouts Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").
    The weight is computed per token, or per reply if `reply_is_one_action`.

    Masks: tokens that the rollout drew with a far larger probability than the trainer's teach little but noise.
    `importance_floor` leaves out tokens whose ratio pi_trainer / pi_rollout is below it (the lower limit of IcePop, Ling
    Team 2025, arXiv 2510.18855). `sequence_floor` and `sequence_ceiling` leave out whole replies (as Liu et al. 2025, "When
    speed kills stability") whose geometric mean of these ratios (arXiv 2507.18071, eq. 7) is below or above them. This mean
    does not depend on a reply's length. Whatever is left out enters neither the losses nor the numbers that these are
    divided by; its rewards still count in the advantages of other replies.

    `stop_kl`: once `approx_kl` exceeds this value, policy updates are skipped until the next round, this step's
    included (its gradient still enters Adam's averages). `approx_kl` is the mean over a step's tokens of k3 = r - 1 -
    log r, r = pi / pi_old (Schulman 2020, "Approximating KL divergence").

    `mask_unfinished`: replies that were cut off are left out of the loss and of what it averages over (arXiv 2503.14476,
    sec. 3.4). Their rewards still count in the advantages of the other replies.

    `entropy`: measure the mean entropy of the tokens' distributions [nats]. `entropy_weight` adds an entropy bonus:
    this weight times the entropy is subtracted from the loss.
    """

    mask_unfinished: bool = False
    importance_cap: float | None = option(None, above=0)
    importance_floor: float | None = option(None, above=0, below=1)
    sequence_floor: float | None = option(None, above=0, below=1)
    sequence_ceiling: float | None = option(None, above=1)
    stop_kl: float | None = option(None, above=0)
    entropy: bool = True
    entropy_weight: float = option(0.0, at_least=0)

    reply_is_one_action: ClassVar[bool] = False

    @property
    def reads_entropy(self) -> bool:
        return self.entropy

    @property
    def tolerates_stale_rollouts(self) -> bool:
        """True only with `importance_cap`, because without it the loss assumes that the present policy wrote the replies."""
        return self.importance_cap is not None

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        rollout = config.rollout
        if self.stop_kl is not None and self._round_is_one_step(config):
            raise UserError(
                f"algo.stop_kl={self.stop_kl}: a round is one step, in which the policy has not changed since it "
                "wrote the replies; use algo.passes=2, or a larger algo.prompts_per_round"
            )
        if (self.importance_floor or 0.0) >= (self.importance_cap or math.inf):
            raise UserError(
                f"algo.importance_floor={self.importance_floor} and algo.importance_cap={self.importance_cap}: every weight "
                "would be 0 or the cap; use a floor below the cap"
            )
        if self.entropy_weight and not self.entropy:
            raise UserError(f"algo.entropy_weight={self.entropy_weight} needs the entropy: use algo.entropy=true")
        if rollout.top_p < 1 or rollout.top_k:
            raise UserError(
                f"rollout.top_p={rollout.top_p} and top_k={rollout.top_k}: {type(self).__name__} needs replies from "
                "the untruncated policy; use rollout.top_p=1 rollout.top_k=0, and rollout.temperature"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if self._round_is_one_step(config):
            reason = (
                "a round is one step, in which the ratio to the policy that wrote the replies is 1 (see algo.passes)"
            )
            unused |= {item.name: reason for item in fields(self) if item.name in _OF_RATIO}
        if not self.entropy:
            unused["entropy_weight"] = "algo.entropy=false measures no entropy"
        if not target_class(config, "rollout").other_engine:
            unused |= dict.fromkeys(_MASKS, "the trainer writes the replies itself, so all ratios are 1")
        return unused

    def _round_is_one_step(self, config: DictConfig) -> bool:
        """Return True if every step trains on replies written by the policy's present weights."""
        batch = config.global_batch_size
        return self.passes == 1 and (self.prompts_per_round or batch) <= batch

    def gets_gradients(self, engine: str, ctx: Context) -> bool:
        """Return False for the policy after a step exceeded `stop_kl`, until the round ends."""
        return self.moves_weights(engine, ctx)

    def moves_weights(self, engine: str, ctx: Context) -> bool:
        """Return False for the policy from the first step of the round whose `approx_kl` exceeds `stop_kl`."""
        return engine != "policy" or self.stop_kl is None or ctx.peaks.get("approx_kl", 0.0) <= self.stop_kl

    @property
    def masks(self) -> bool:
        """True if tokens may be left out because of their ratio."""
        return any(getattr(self, name) is not None for name in _MASKS)

    def unmasked(self, groups: list[Group], weights: list[list[np.ndarray]]) -> list[Group]:
        """Return the groups without what the masks exclude; replies and groups of which nothing remains are left out.

        `weights`: the importance weights of `take_logprobs`. A mask makes a token's weight 0.
        """
        if not (self.mask_unfinished or self.masks):
            return groups
        rest = []
        for group, of_group in zip(groups, weights, strict=True):
            kept = [
                completion.with_trained(weight != 0) if self.masks else completion
                for completion, weight in zip(group.completions, of_group, strict=True)
                if not (self.mask_unfinished and completion.finish_reason == "length")
            ]
            rest.append(replace(group, completions=[completion for completion in kept if completion.trained_tokens]))
        return [group for group in rest if group.completions]

    def take_logprobs(self, groups: list[Group], ctx: Context) -> list[list[np.ndarray]]:
        """Replace the rollout's log-probabilities by the trainer's, and return the importance weights of tokens.

        The weights are float32[len] for each completion of each group. The differences between the two
        log-probabilities are noted as metrics.
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
        every = np.concatenate([factors for of_group in weights for factors in of_group])
        if self.importance_cap is not None:
            ctx.note("importance", float(every.mean()))
        if self.masks:
            ctx.note("masked", float((every == 0).mean()))
        return weights

    def importance(self, gap: np.ndarray) -> np.ndarray:
        """Return the importance weights of a reply's tokens, float32[len]: 0 if masked; without `importance_cap` otherwise 1.

        `gap`: log pi_trainer - log pi_rollout of each token, float32[len].
        """
        import numpy as np

        mean = float(gap.mean()) if self.masks else 0.0
        outside = mean < _log(self.sequence_floor, -math.inf) or mean > _log(self.sequence_ceiling, math.inf)
        gap = np.full_like(gap, gap.sum()) if self.reply_is_one_action else gap
        if self.importance_cap is None:
            weights = np.ones_like(gap)
        else:
            weights = np.exp(np.minimum(gap, math.log(self.importance_cap))).astype(np.float32)
        weights[outside | (gap < _log(self.importance_floor, -math.inf))] = 0.0
        return weights

    def common_terms(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the metric `approx_kl` and, if it is measured, the term `entropy`, averaged over tokens."""
        assert outputs.logprobs is not None
        terms = {"approx_kl": Term(k3(outputs.logprobs.detach() - batch.old_logprobs).sum(), "tokens", 0.0)}
        if outputs.entropy is not None:
            terms["entropy"] = Term(outputs.entropy.sum(), "tokens", -self.entropy_weight)
        return terms


@dataclass
class PolicyGradient(AdvantageAlgorithm, Online):
    """Base of PPO, RLOO and GRPO, whose advantages come from rewards.

    `kl_weight`: weight of the divergence from `reference`. With 0 no reference is loaded, and no divergence is measured.
    """

    reference: str = option("initial", choices=("initial", "round"))
    kl_weight: float = option(0.0, at_least=0)

    needs = Needs(models=frozenset({"policy", "reference"}), data="prompts", rollouts=True, reward=True)

    @property
    def reference_kind(self) -> Literal["none", "initial", "round", "model"]:
        return cast(Literal["initial", "round"], self.reference) if self.kl_weight else "none"

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if not self.kl_weight:
            unused["reference"] = "algo.kl_weight=0 uses no reference"
        return unused

    def scaled(self, rewards: list[np.ndarray]) -> list[np.ndarray]:
        """Return a round's rewards, float[n] for each prompt, as the advantages use them."""
        return rewards


@dataclass
class ReplyAdvantages(PolicyGradient):
    """Base of the algorithms in which all tokens of a reply share one advantage; a subclass must define `advantages_of`."""

    @abstractmethod
    def advantages_of(self, rewards: np.ndarray, kl: np.ndarray) -> np.ndarray:
        """Return the advantages, float[n], of the n replies to a prompt.

        Args:
            rewards: float[n], scaled rewards of the replies.
            kl: float[n], log(pi_old / ref) of the replies, summed over tokens (nats).
        """

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Fill each completion's `logprobs` (by the trainer), `ref_logprobs` and `advantages`.

        All tokens of a reply share one advantage, multiplied by each token's importance weight.
        """
        import numpy as np

        groups = self.collect_reference(groups, ctx)
        weights = self.take_logprobs(groups, ctx)
        rewards = self.scaled([levelled(np.array(self.rewards(group, ctx))) for group in groups])
        for group, of_group, of_replies in zip(groups, weights, rewards, strict=True):
            kl = np.array([float(divergence(completion).sum()) for completion in group.completions])
            advantages = self.advantages_of(of_replies, kl)
            for completion, advantage, weight in zip(group.completions, advantages, of_group, strict=True):
                completion.advantages = np.float32(advantage) * weight
        return self.unmasked(groups, weights)


def _log(limit: float | None, otherwise: float) -> float:
    return otherwise if limit is None else math.log(limit)


def divergence(completion: Completion) -> np.ndarray:
    """Return log(pi_old / ref) of a collected completion's tokens, float32[len]; zeros without a reference."""
    import numpy as np

    assert completion.logprobs is not None
    if completion.ref_logprobs is None:
        return np.zeros_like(completion.logprobs)
    return completion.logprobs - completion.ref_logprobs


def levelled(rewards: np.ndarray) -> np.ndarray:
    """Return the rewards of a prompt's replies, float[n]; those that differ by rounding alone are made equal."""
    import numpy as np

    return rewards if rewards_differ(rewards) else np.full_like(rewards, rewards[0])


def normalised(rewards: list[np.ndarray]) -> list[np.ndarray]:
    """Return a round's rewards, float[n] for each prompt, with mean 0 and standard deviation 1 over all replies.

    Then `kl_weight` weighs a nat against a standard deviation of rewards, whatever the reward model's own scale. Equal
    rewards become 0.
    """
    import numpy as np

    mean, spread = np.concatenate(rewards).mean(), spread_of(rewards)
    return [(of_prompt - mean) / spread for of_prompt in rewards]


def spread_of(rewards: list[np.ndarray]) -> float:
    """Return the standard deviation of a round's rewards, float[n] for each prompt; 1 if they differ by rounding alone."""
    import numpy as np

    every = np.concatenate(rewards)
    return float(every.std()) if rewards_differ(every) else 1.0


def clipped(
    difference: torch.Tensor, advantages: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return PPO's clipped losses and the probability ratios, float[n] each (arXiv 1707.06347, eq. 7).

    The loss is max(-A r, -A clamp(r, 1 - low, 1 + high)), r = pi / pi_old. Moving the ratio out of this range brings no
    further gain.

    Args:
        difference: float[n], log pi - log pi_old of each action.
        advantages: float[n], advantages A.
        low: largest decrease of the ratio below 1.
        high: largest increase of the ratio above 1.
    """
    import torch

    ratio = difference.exp()
    bounded = ratio.clamp(1 - low, 1 + high)
    return torch.maximum(-advantages * ratio, -advantages * bounded), ratio.detach()


def ratio_metrics(ratio: torch.Tensor, low: float, high: float, unit: str) -> dict[str, Term]:
    """Return the metrics `ratio`, the mean ratio, and `clip_fraction`, the share of ratios outside [1 - low, 1 + high].

    Args:
        ratio: float[units], pi / pi_old of each action.
        low: largest decrease of the ratio below 1.
        high: largest increase of the ratio above 1.
        unit: the unit to average over, "tokens" or "completions".
    """
    outside = ((ratio < 1 - low) | (ratio > 1 + high)).float()
    return {"ratio": Term(ratio.sum(), unit, 0.0), "clip_fraction": Term(outside.sum(), unit, 0.0)}


def kl_losses(logprobs: torch.Tensor, batch: Batch, unbiased: bool) -> torch.Tensor:
    """Return the loss of each token, float[N], whose mean estimates the divergence KL(pi || ref) (nats).

    It is k3, or if `unbiased` k3 times pi / pi_old (arXiv 2512.02556, sec. 3.1). The gradient of k3 alone is not that of
    the divergence, even where pi = pi_old: it grows without limit for tokens that ref makes far more likely than pi.

    Args:
        logprobs: float32[N], log pi of the batch's completion tokens.
        batch: holds log ref and log pi_old of these tokens.
        unbiased: multiply by the ratio, and differentiate it, too.
    """
    losses = k3(batch.ref_logprobs - logprobs)
    return losses * (logprobs - batch.old_logprobs).exp() if unbiased else losses


def k3(difference: torch.Tensor) -> torch.Tensor:
    """Return estimates of the divergence KL(p || q) (nats), float[n], from tokens drawn from p.

    The estimator exp(d) - d - 1, d = log q - log p, is unbiased, never negative and of low variance (Schulman 2020,
    "Approximating KL divergence", third estimator; arXiv 2402.03300, eq. 4).

    Args:
        difference: float[n], d of each token.
    """
    return difference.exp() - difference - 1
