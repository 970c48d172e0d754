"""Proximal policy optimization (PPO) with a critic: a model of its own, or a head on the policy's trunk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from psychocounsel.algo.base import Context, Needs, Outputs, Term
from psychocounsel.algo.policy_gradient import (
    PolicyGradient,
    clipped,
    divergence,
    kl_losses,
    normalised,
    ratio_metrics,
    spread_of,
)
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.reward.local_model import labels_of
from psychocounsel.reward.sections import path_is
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Completion, Group


@dataclass
class PPO(PolicyGradient):
    """PPO on tokens: a critic predicts each token's return; tokens that exceed their prediction become more likely.

    The method is that of arXiv 1707.06347, applied to language models as in arXiv 2203.02155.

    Rewards: a reply's reward belongs to its last token; in a session, to the last tokens of the turns that earned it (see
    `turn_ends`). With `normalise_rewards` the rewards of a round have mean 0 and standard deviation 1. `kl_weight` times the
    divergence from the reference is either subtracted from each token's reward (`kl_in="reward"`: log pi_old - log ref) or
    added to the loss (`kl_in="loss"`: the mean over tokens of `kl_losses`, by `kl_unbiased`). With `kl_target` the weight
    is adapted from round to round (see `adapted`).

    Advantages are those of GAE (arXiv 1506.02438, eq. 16). With `whiten` they are normalised over the round to mean 0
    and standard deviation 1.

    The policy's loss is eq. 7 of arXiv 1707.06347 (see `clipped`). The critic's loss is half the squared error between
    value and return. If clipping the value to within `value_clip` of the old value makes this error larger, the larger
    error counts. In the first `critic_warmup` rounds only the critic learns, and no gradient of the policy is computed.

    With `critic="shared"` a linear head on the policy's last hidden states predicts the values (arXiv 1707.06347, sec.
    5). One forward pass computes values and log-probabilities. The loss is the policy's plus `value_weight` times the
    critic's (c1 in eq. 9), with one backward pass and one optimizer step. The gradients of both losses are clipped
    together. The head has the learning rate `critic_lr`, and it is not updated in steps that skip the policy's update.
    """

    samples: int = option(1, at_least=1)
    critic: str = option("reward", choices=("reward", "policy", "shared"))
    critic_lr: float = option(1e-5, above=0)
    critic_warmup: int = option(0, at_least=0)
    value_weight: float = option(0.1, above=0)
    kl_weight: float = option(0.05, at_least=0)
    kl_in: str = option("reward", choices=("reward", "loss"))
    kl_unbiased: bool = False
    kl_target: float | None = option(None, above=0)
    kl_gain: float = option(0.1, above=0, below=5)
    reward_weight: float = option(1.0, at_least=0)
    reward_clip: float | None = option(None, above=0)
    normalise_rewards: bool = True
    discount: float = option(1.0, above=0, at_most=1)
    turn_discount: float | None = option(
        None, above=0, at_most=1
    )  # None by default, so that earlier runs keep their identity
    gae_lambda: float = option(1.0, at_least=0, at_most=1)
    whiten: bool = True
    clip: float = option(0.2, above=0)
    value_clip: float = option(0.2, above=0)

    needs = Needs(models=frozenset({"policy", "reference", "critic"}), data="prompts", rollouts=True, reward=True)

    def __post_init__(self) -> None:
        self._kl_weight = self.kl_weight  # weight of the round that is being trained on

    @property
    def critic_kind(self) -> Literal["none", "own", "shared"]:
        return "shared" if self.critic == "shared" else "own"

    @property
    def critic_start(self) -> Literal["reward", "policy"]:
        return cast(Literal["reward", "policy"], self.critic)

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        if self.critic == "reward" and path_is(config.reward) != "loaded":
            raise UserError(
                "algo.critic=reward: this reward loads no model that the critic could start from; use algo.critic=policy"
            )
        if self.critic == "reward" and labels_of(config.reward.path) == PRINCIPLES:
            raise UserError(
                f"algo.critic=reward: {config.reward.path} has a score for each principle; use algo.critic=policy"
            )
        if self.critic == "policy" and config.model.quantise:
            raise UserError(
                f"algo.critic=policy and model.quantise={config.model.quantise}: the critic has no adapters, and quantised "
                "weights cannot be trained; use algo.critic=reward or algo.critic=shared"
            )
        if self.critic_kind == "shared" and self.critic_warmup:
            raise UserError(
                f"algo.critic_warmup={self.critic_warmup}: a critic that shares the policy's trunk cannot learn before the "
                "policy does; remove this setting, or use algo.critic=policy"
            )
        prompts = self.prompts_per_round or config.global_batch_size
        if self.normalise_rewards and self.samples * prompts == 1:
            raise UserError(
                "algo.normalise_rewards=true: a round has one reply, whose normalised reward is always 0; use algo.samples=4, a "
                "larger global_batch_size, or algo.normalise_rewards=false"
            )
        if config.max_steps:
            steps_per_round = self.passes * math.ceil(prompts / config.global_batch_size)
            self.check_rounds(math.ceil(config.max_steps / steps_per_round))
        if self.kl_target is not None and not self.kl_weight:
            raise UserError(
                f"algo.kl_target={self.kl_target} multiplies algo.kl_weight, which is 0: set a positive initial weight"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if self.critic_kind == "own":
            unused["value_weight"] = "the critic is a model of its own, with the learning rate algo.critic_lr"
        if self.kl_target is None:
            unused["kl_gain"] = "it adapts the weight towards algo.kl_target, which is not set"
        if not config.rollout.clients:
            unused["turn_discount"] = "single replies have one turn; only sessions (rollout.clients) have several"
        if not self.kl_weight:
            unused["kl_in"] = "algo.kl_weight=0 ignores the divergence"
        if not self.kl_weight or self.kl_in == "reward":
            unused["kl_unbiased"] = "only algo.kl_in=loss with a positive algo.kl_weight adds a divergence to the loss"
        return unused

    def check_rounds(self, rounds: int) -> None:
        if self.critic_warmup >= rounds:
            raise UserError(
                f"algo.critic_warmup={self.critic_warmup} (rounds in this run: at most {rounds}): the policy would never learn; "
                "lower algo.critic_warmup, or raise max_steps or epochs"
            )

    def lr_factor(self, engine: str) -> float:
        return self.critic_lr / self.lr if engine == "critic" else 1.0

    def gets_gradients(self, engine: str, ctx: Context) -> bool:
        """Return True for the critic, and for the policy after `critic_warmup` rounds unless `stop_kl` was exceeded."""
        warm = engine == "critic" or ctx.round >= self.critic_warmup
        return warm and super().gets_gradients(engine, ctx)

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Fill each completion's `logprobs` (by the trainer), `ref_logprobs`, `values`, `advantages` and `returns`.

        Advantages are whitened (with `whiten`) and then multiplied by the importance weights.
        """
        import numpy as np

        groups = self.collect_reference(groups, ctx)
        by_group = self.take_logprobs(groups, ctx)
        weights = [weight for of_group in by_group for weight in of_group]
        completions = [completion for group in groups for completion in group.completions]
        kl = [divergence(completion) for completion in completions]
        kl_weight = self._next_kl_weight(float(np.mean([divergences.sum() for divergences in kl])), ctx)
        values = [values for of_group in ctx.values(groups) for values in of_group]
        own = [np.array(self.rewards(group, ctx)) for group in groups]
        rewards = np.concatenate(self.scaled(own))
        mean, spread = (float(np.concatenate(own).mean()), spread_of(own)) if self.normalise_rewards else (0.0, 1.0)
        for completion, of_tokens, value, reward in zip(completions, kl, values, rewards.tolist(), strict=True):
            tokens = -(kl_weight if self.kl_in == "reward" else 0.0) * of_tokens
            for place, earned in turn_ends(completion, reward, self.reward_weight / spread, mean):
                tokens[place] += earned
            completion.values = value
            completion.advantages = gae(tokens, value, self._discounts(completion), self.gae_lambda)
            completion.returns = completion.advantages + value
        returns, before, advantages = (
            np.concatenate([getattr(c, name) for c in completions]) for name in ("returns", "values", "advantages")
        )
        ctx.note("explained_variance", float(1 - (returns - before).var() / max(float(returns.var()), 1e-12)))
        ctx.note("value", float(before.mean()))
        centre, std = (advantages.mean(), advantages.std() + 1e-8) if self.whiten else (0.0, 1.0)
        for completion, weight in zip(completions, weights, strict=True):
            assert completion.advantages is not None
            completion.advantages = ((completion.advantages - centre) / std * weight).astype(np.float32)
        return self.unmasked(groups, by_group)

    def _discounts(self, completion: Completion) -> np.ndarray:
        """Return the discounts of `gae`, float[trained tokens]; a turn's last token has `turn_discount`, too."""
        import numpy as np

        discounts = np.full(completion.trained_tokens, self.discount)
        discounts[np.cumsum(completion.turn_lengths) - 1] *= 1.0 if self.turn_discount is None else self.turn_discount
        return discounts

    def _next_kl_weight(self, kl: float, ctx: Context) -> float:
        """Return the round's weight of the divergence; note the weight and `kl`, because the next round's weight needs both."""
        if self.kl_target is None:
            return self.kl_weight
        before, measured = ctx.earlier("kl_weight"), ctx.earlier("kl")
        weight = self.kl_weight
        # None in the first round; and a policy that waits for the critic does not drift, whatever the weight
        if before is not None and measured is not None and ctx.round > self.critic_warmup:
            weight = adapted(before, measured, self.kl_target, self.kl_gain)
        ctx.note("kl_weight", weight)
        ctx.note("kl", kl)
        return weight

    def batch_groups(self, groups: list[Group], ctx: Context) -> list[Group]:
        self._kl_weight = ctx.notes.get("kl_weight", self.kl_weight)
        return groups

    def scaled(self, rewards: list[np.ndarray]) -> list[np.ndarray]:
        """Return the round's rewards, normalised and clipped if so configured, times `reward_weight`."""
        rewards = normalised(rewards) if self.normalise_rewards else rewards
        limit = math.inf if self.reward_clip is None else self.reward_clip
        return [self.reward_weight * of_prompt.clip(-limit, limit) for of_prompt in rewards]

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return terms averaged over tokens; `loss_value` belongs to the critic, or to the policy if the trunk is shared.

        `outputs.logprobs`, `outputs.values`: float32[N], log-probabilities and values of the batch's completion tokens.
        """
        import torch

        assert outputs.logprobs is not None and outputs.values is not None
        losses, ratio = clipped(outputs.logprobs - batch.old_logprobs, batch.advantages, self.clip, self.clip)
        near = batch.old_values + (outputs.values - batch.old_values).clamp(-self.value_clip, self.value_clip)
        errors = torch.maximum((outputs.values - batch.returns) ** 2, (near - batch.returns) ** 2)
        weight, engine = (self.value_weight, "policy") if self.critic_kind == "shared" else (1.0, "critic")
        terms = {
            "loss_policy": Term(losses.sum(), "tokens"),
            "loss_value": Term(0.5 * errors.sum(), "tokens", weight, engine),
        }
        if self.kl_in == "loss" and self.kl_weight:
            losses = kl_losses(outputs.logprobs, batch, self.kl_unbiased)
            terms["loss_kl"] = Term(losses.sum(), "tokens", self._kl_weight)
        return terms | ratio_metrics(ratio, self.clip, self.clip, "tokens") | self.common_terms(outputs, batch)


def turn_ends(completion: Completion, reward: float, scale: float, mean: float = 0.0) -> list[tuple[int, float]]:
    """Return the last trained token of each of the policy's turns, and the part of the scaled `reward` that it gets.

    The parts add up to `reward`. An earlier turn t gets scale * (r_t - s_t * mean), with r_t of `Completion.turn_rewards`
    and its share s_t of the mean that normalising subtracts (`Completion.turn_shares`), so that a constant added to the
    rewards of all turns changes no part. The last turn gets the rest, so also the penalties.
    """
    import numpy as np

    if completion.turn_rewards is None:
        return [(-1, reward)]
    assert completion.turn_shares is not None
    places = np.cumsum(completion.turn_lengths) - 1
    earned = completion.turn_rewards.astype(float) - completion.turn_shares * mean
    earlier = (scale * earned[:-1]).tolist()
    return list(zip(places.tolist(), [*earlier, reward - sum(earlier)], strict=True))


def adapted(weight: float, kl: float, target: float, gain: float) -> float:
    """Return the next weight of the divergence: weight * (1 + gain * e), e = (kl - target) / target.

    The weight grows if the policy drifted further from the reference than `target`, and shrinks otherwise. e is limited
    to [-0.2, 0.2] (arXiv 1909.08593, sec. 2.2; its gain is 0.1).

    Args:
        weight: present weight.
        kl: measured divergence (nats per reply).
        target: desired divergence (nats per reply).
        gain: speed of the adaptation.
    """
    error = max(-0.2, min(0.2, (kl - target) / target))
    return weight * (1 + gain * error)


def gae(rewards: np.ndarray, values: np.ndarray, discounts: np.ndarray | float, lam: float) -> np.ndarray:
    """Return the advantages of a reply's tokens, float32[len], by generalised advantage estimation.

    A_t = d_t + g_t * lam * A_{t+1}, with d_t = r_t + g_t * V_{t+1} - V_t and the discount g_t of token t, which is arXiv
    1506.02438, eq. 16 if all are the same. The value after the last token is 0.

    Args:
        rewards: float[len], reward of each token.
        values: float[len], the critic's value before each token.
        discounts: float[len] or one for all tokens, factor of the rewards after each token, in (0, 1].
        lam: 0 trusts the critic's next value, 1 sums the actual rewards.
    """
    import numpy as np

    discounts = np.broadcast_to(discounts, len(rewards))
    advantages, following, value = np.zeros(len(rewards), np.float32), 0.0, 0.0
    for place in range(len(rewards) - 1, -1, -1):
        error = rewards[place] + discounts[place] * value - values[place]
        following = error + discounts[place] * lam * following
        advantages[place], value = following, values[place]
    return advantages
