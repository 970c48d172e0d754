"""Proximal policy optimization, with a critic that is a model of its own or a head on the policy's trunk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from psychocounsel.algo.base import Context, Needs, Outputs, Term, collect_reference
from psychocounsel.algo.policy_gradient import PolicyGradient, clipped, k3, ratio_metrics
from psychocounsel.errors import UserError
from psychocounsel.settings.reward_sections import path_is
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class PPO(PolicyGradient):
    """PPO (arXiv 1707.06347) on tokens, as for language models in arXiv 2203.02155.

    A reply's reward is that of its last token. The divergence from the reference counts kl_weight times, by `kl_in` in the
    "reward" of each token as log pi_old - log ref, or in the "loss" as the mean over tokens of `k3` of pi and ref. With
    `kl_target` that weight changes from round to round (`adapted`). Advantages are those of GAE (arXiv 1506.02438, eq. 16),
    over the round less their mean and over their standard deviation (`whiten`). The policy's loss is eq. 7; the critic's is
    half the squared error to the returns, the larger of that and the one of a value held within `value_clip` of what it
    was. In the first `critic_warmup` rounds the critic learns alone, and the policy is not even differentiated.

    With `critic="shared"` values come from a linear head on the policy's last hidden states (arXiv 1707.06347, sec. 5). One
    pass gives them and the log-probabilities; one backward pass and optimizer step are of the policy's loss and
    `value_weight` times the critic's (c1 in eq. 9). The gradients of both are clipped together, and the head, whose
    learning rate is `critic_lr`, rests where the policy does.
    """

    samples: int = option(1, at_least=1)
    critic: str = option("reward", choices=("reward", "policy", "shared"))
    critic_lr: float = option(1e-5, above=0)
    critic_warmup: int = option(0, at_least=0)
    value_weight: float = option(0.1, above=0)
    kl_weight: float = option(0.05, at_least=0)
    kl_in: str = option("reward", choices=("reward", "loss"))
    kl_target: float | None = option(None, above=0)
    kl_gain: float = option(0.1, above=0, below=5)
    reward_weight: float = option(1.0, at_least=0)
    reward_clip: float | None = option(None, above=0)
    normalise_rewards: bool = False
    discount: float = option(1.0, above=0, at_most=1)
    gae_lambda: float = option(0.95, at_least=0, at_most=1)
    whiten: bool = True
    clip: float = option(0.2, above=0)
    value_clip: float = option(0.2, above=0)

    needs = Needs(models=frozenset({"policy", "reference", "critic"}), data="prompts", rollouts=True, reward=True)

    def __post_init__(self) -> None:
        self._kl_weight = self.kl_weight  # of the round that is trained on

    @property
    def critic_kind(self) -> Literal["none", "own", "shared"]:
        return "shared" if self.critic == "shared" else "own"

    @property
    def critic_start(self) -> Literal["reward", "policy"]:
        return cast(Literal["reward", "policy"], self.critic)

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        if self.critic == "reward" and path_is(config.reward) != "loaded":
            raise UserError("algo.critic=reward: this reward has no model here to begin as; use algo.critic=policy")
        if self.critic_kind == "shared" and self.critic_warmup:
            raise UserError(
                f"algo.critic_warmup={self.critic_warmup}: a critic that shares the policy's trunk cannot learn before the "
                "policy does; leave it out, or use algo.critic=policy"
            )
        if config.max_steps:
            prompts = self.prompts_per_round or config.global_batch_size
            steps_per_round = self.passes * math.ceil(prompts / config.global_batch_size)
            self.check_rounds(math.ceil(config.max_steps / steps_per_round))
        if self.critic_kind == "own" and self.value_weight != type(self).value_weight:
            raise UserError(
                f"algo.value_weight={self.value_weight} weighs the critic's loss beside the policy's, and this critic learns "
                "apart from it: use algo.critic_lr, or algo.critic=shared"
            )
        if self.kl_target is None and self.kl_gain != type(self).kl_gain:
            raise UserError(f"algo.kl_gain={self.kl_gain} is of algo.kl_target, and there is none: give that as well")
        if self.kl_target is not None and not self.kl_weight:
            raise UserError(
                f"algo.kl_target={self.kl_target} multiplies algo.kl_weight, which is 0: give one to begin with"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        found = super().unused(config)
        if self.critic_kind == "own":
            found["value_weight"] = "the critic learns apart from the policy, at algo.critic_lr"
        if self.kl_target is None:
            found["kl_gain"] = "it is of algo.kl_target, and there is none"
        if not self.kl_weight:
            found["kl_in"] = "algo.kl_weight=0 counts no divergence"
        return found

    def check_rounds(self, rounds: int) -> None:
        if self.critic_warmup >= rounds:
            raise UserError(
                f"algo.critic_warmup={self.critic_warmup} (rounds in this run: at most {rounds}): the policy would never learn; "
                "use a smaller one, or more max_steps or epochs"
            )

    def lr_factor(self, engine: str) -> float:
        return self.critic_lr / self.lr if engine == "critic" else 1.0

    def gets_gradients(self, engine: str, ctx: Context) -> bool:
        """The critic always; the policy after `critic_warmup` rounds, and as PolicyGradient says."""
        warm = engine == "critic" or ctx.round >= self.critic_warmup
        return warm and super().gets_gradients(engine, ctx)

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Fill `logprobs` by the policy as it trains, `ref_logprobs`, `values`, `advantages` and `returns`."""
        import numpy as np

        groups = collect_reference(groups, ctx)
        weights = [weight for some in self.take_logprobs(groups, ctx) for weight in some]
        completions = [completion for group in groups for completion in group.completions]
        kl = [completion.logprobs - completion.ref_logprobs for completion in completions]  # type: ignore[operator]
        kl_weight = self._next_kl_weight(float(np.mean([each.sum() for each in kl])), ctx)
        values = [values for some in ctx.values(groups) for values in some]
        rewards = self._rewards(np.concatenate([self.rewards(group, ctx) for group in groups]))
        for completion, divergence, value, reward in zip(completions, kl, values, rewards.tolist(), strict=True):
            tokens = -(kl_weight if self.kl_in == "reward" else 0.0) * divergence
            tokens[-1] += reward
            completion.values = value
            completion.advantages = gae(tokens, value, self.discount, self.gae_lambda)
            completion.returns = completion.advantages + value
        returns, before, advantages = (
            np.concatenate([getattr(c, name) for c in completions]) for name in ("returns", "values", "advantages")
        )
        ctx.note("explained_variance", float(1 - (returns - before).var() / max(float(returns.var()), 1e-12)))
        ctx.note("value", float(before.mean()))
        mean, std = (advantages.mean(), advantages.std() + 1e-8) if self.whiten else (0.0, 1.0)
        for completion, weight in zip(completions, weights, strict=True):
            assert completion.advantages is not None
            completion.advantages = ((completion.advantages - mean) / std * weight).astype(np.float32)
        return groups

    def _next_kl_weight(self, kl: float, ctx: Context) -> float:
        """The round's weight of the divergence; notes it and `kl`, from which that of the next round follows."""
        if self.kl_target is None:
            return self.kl_weight
        before, measured = ctx.earlier("kl_weight"), ctx.earlier("kl")
        first = before is None or measured is None
        weight = self.kl_weight if first else adapted(before, measured, self.kl_target, self.kl_gain)  # type: ignore[arg-type]
        ctx.note("kl_weight", weight)
        ctx.note("kl", kl)
        return weight

    def batch_groups(self, groups: list[Group], ctx: Context) -> list[Group]:
        self._kl_weight = ctx.notes.get("kl_weight", self.kl_weight)
        return groups

    def _rewards(self, rewards: np.ndarray) -> np.ndarray:
        """float[replies of the round]: as they count, normalised, clipped and weighed if that is asked for."""
        if self.normalise_rewards:
            rewards = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
        if self.reward_clip is not None:
            rewards = rewards.clip(-self.reward_clip, self.reward_clip)
        return self.reward_weight * rewards

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Terms per token; `loss_value` is the critic's, or with a shared trunk one of the policy's."""
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
        if self.kl_in == "loss":
            terms["loss_kl"] = Term(k3(batch.ref_logprobs - outputs.logprobs).sum(), "tokens", self._kl_weight)
        return terms | ratio_metrics(ratio, self.clip, self.clip, "tokens") | self.common_terms(outputs, batch)


def adapted(weight: float, kl: float, target: float, gain: float) -> float:
    """The next weight of the divergence (arXiv 1909.08593, sec. 2.2): weight * (1 + gain * e), e = (kl - target) / target.

    e is held within 0.2; `kl` and `target` are in nats per reply, and the paper's gain is 0.1.
    """
    error = max(-0.2, min(0.2, (kl - target) / target))
    return weight * (1 + gain * error)


def gae(rewards: np.ndarray, values: np.ndarray, discount: float, lam: float) -> np.ndarray:
    """float32[len] advantages of a reply from its tokens' rewards and the values before them; its end is worth nothing."""
    import numpy as np

    advantages, following, value = np.zeros(len(rewards), np.float32), 0.0, 0.0
    for place in range(len(rewards) - 1, -1, -1):
        error = rewards[place] + discount * value - values[place]
        following = error + discount * lam * following
        advantages[place], value = following, values[place]
    return advantages
