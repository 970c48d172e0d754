"""Proximal policy optimization with a critic of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Context, Needs, Outputs, Term, collect_reference
from psychocounsel.algo.online import Online, clipped, ratio_metrics
from psychocounsel.schema import option

if TYPE_CHECKING:
    import numpy as np

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class PPO(Online, Algorithm):
    """PPO (arXiv 1707.06347) on tokens, as for language models in arXiv 2203.02155.

    A token's reward is -kl_weight * (log pi_old - log ref), and the last one has the reply's reward besides. Advantages are
    those of GAE (arXiv 1506.02438, eq. 16), over the round less their mean and over their standard deviation (`whiten`).
    The policy's loss is eq. 7; the critic's is half the squared error to the returns, the larger of that and the one of
    a value held within `value_clip` of what it was.
    """

    samples: int = option(1, at_least=1)
    critic: str = option("reward", choices=("reward", "policy"))
    critic_lr: float = option(1e-5, above=0)
    kl_weight: float = option(0.05, at_least=0)
    reward_weight: float = option(1.0, at_least=0)
    reward_clip: float | None = option(None, above=0)
    normalise_rewards: bool = False
    discount: float = option(1.0, above=0, at_most=1)
    gae_lambda: float = option(0.95, at_least=0, at_most=1)
    whiten: bool = True
    clip: float = option(0.2, above=0)
    value_clip: float = option(0.2, above=0)

    needs = Needs(models=frozenset({"policy", "reference", "critic"}), data="prompts", rollouts=True, reward=True)

    def lr_factor(self, engine: str) -> float:
        return self.critic_lr / self.lr if engine == "critic" else 1.0

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Fill `logprobs` by the policy as it trains, `ref_logprobs`, `values`, `advantages` and `returns`."""
        import numpy as np

        groups = collect_reference(groups, ctx)
        completions = [completion for group in groups for completion in group.completions]
        logprobs = [values for some in ctx.logprobs("policy", groups) for values in some]
        values = [values for some in ctx.values(groups) for values in some]
        rewards = self._rewards(np.concatenate([self.rewards(group, ctx) for group in groups]))
        for completion, now, value, reward in zip(completions, logprobs, values, rewards.tolist(), strict=True):
            assert completion.ref_logprobs is not None
            completion.logprobs, completion.values = now, value
            tokens = -self.kl_weight * (now - completion.ref_logprobs)
            tokens[-1] += reward
            completion.advantages = gae(tokens, value, self.discount, self.gae_lambda)
            completion.returns = completion.advantages + value
        returns, before = (np.concatenate([getattr(c, name) for c in completions]) for name in ("returns", "values"))
        ctx.note("explained_variance", float(1 - (returns - before).var() / max(float(returns.var()), 1e-12)))
        ctx.note("value", float(before.mean()))
        if self.whiten:
            every = np.concatenate([c.advantages for c in completions if c.advantages is not None])
            mean, std = every.mean(), every.std() + 1e-8
            for completion in completions:
                completion.advantages = ((completion.advantages - mean) / std).astype(np.float32)
        return groups

    def _rewards(self, rewards: np.ndarray) -> np.ndarray:
        """float[replies of the round]: as they count, normalised, clipped and weighed if that is asked for."""
        if self.normalise_rewards:
            rewards = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
        if self.reward_clip is not None:
            rewards = rewards.clip(-self.reward_clip, self.reward_clip)
        return self.reward_weight * rewards

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Terms per token; `loss_value` is the critic's."""
        import torch

        assert outputs.logprobs is not None and outputs.values is not None
        losses, ratio = clipped(outputs.logprobs - batch.old_logprobs, batch.advantages, self.clip, self.clip)
        near = batch.old_values + (outputs.values - batch.old_values).clamp(-self.value_clip, self.value_clip)
        errors = torch.maximum((outputs.values - batch.returns) ** 2, (near - batch.returns) ** 2)
        return {
            "loss_policy": Term(losses.sum(), "tokens"),
            "loss_value": Term(0.5 * errors.sum(), "tokens", engine="critic"),
        } | ratio_metrics(ratio, self.clip, self.clip, "tokens")


def gae(rewards: np.ndarray, values: np.ndarray, discount: float, lam: float) -> np.ndarray:
    """float32[len] advantages of a reply from its tokens' rewards and the values before them; its end is worth nothing."""
    import numpy as np

    advantages, following, value = np.zeros(len(rewards), np.float32), 0.0, 0.0
    for place in range(len(rewards) - 1, -1, -1):
        error = rewards[place] + discount * value - values[place]
        following = error + discount * lam * following
        advantages[place], value = following, values[place]
    return advantages
