"""REINFORCE with the other replies to the same prompt as its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Context, Outputs, Term
from psychocounsel.algo.policy_gradient import PolicyGradient, clipped, collect_advantages, ratio_metrics
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class RLOO(PolicyGradient):
    """RLOO (arXiv 2402.14740, eq. 6 and 7): a reply is one action.

    Its return is R = reward - kl_weight * (log pi_old - log ref), and its advantage R less the mean of the other replies'.
    The loss is -advantage * ratio, ratio = pi / pi_old of the whole reply, clipped as PPO does; in a round's first step it
    has REINFORCE's gradient.
    """

    samples: int = option(4, at_least=2)
    kl_weight: float = option(0.05, at_least=0)
    reward_weight: float = option(1.0, at_least=0)
    clip: float = option(0.2, above=0)

    reply_is_one_action = True

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        return collect_advantages(self, groups, ctx, self._advantages)

    def _advantages(self, rewards: np.ndarray, kl: np.ndarray) -> np.ndarray:
        """float[n] of the n replies to a prompt."""
        returns = self.reward_weight * rewards - self.kl_weight * kl
        return (returns - returns.mean()) * len(returns) / (len(returns) - 1)  # of the others: n/(n-1) times of all

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Terms per completion."""
        assert outputs.logprobs is not None
        difference = batch.completion_sums(outputs.logprobs - batch.old_logprobs)
        advantages = batch.completion_sums(batch.advantages) / batch.completion_lengths
        losses, ratio = clipped(difference, advantages, self.clip, self.clip)
        metrics = ratio_metrics(ratio, self.clip, self.clip, "completions")
        return {"loss_policy": Term(losses.sum(), "completions")} | metrics | self.common_terms(outputs, batch)
