"""Group relative policy optimization (GRPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Context, Outputs, Term
from psychocounsel.algo.policy_gradient import PolicyGradient, clipped, collect_advantages, k3, ratio_metrics
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class GRPO(PolicyGradient):
    """GRPO: compare each reply with the other replies to its prompt, so that no critic is needed.

    Each token is an action, and all tokens of a reply share its advantage. With rewards R of the prompt's replies, the
    advantage of reply i is reward_weight * (R_i - mean(R)) / std(R) (arXiv 2402.03300, sec. 4.1). `normalise_std=false`
    leaves out the division, as in arXiv 2503.20783. The loss averages PPO's clipped loss over the tokens of a reply,
    then over replies (eq. 3), and adds kl_weight * (ref/pi - log(ref/pi) - 1), averaged in the same way (eq. 4).
    """

    samples: int = option(4, at_least=2)
    kl_weight: float = option(0.04, at_least=0)
    reward_weight: float = option(1.0, at_least=0)
    clip_low: float = option(0.2, above=0, below=1)
    clip_high: float = option(0.2, above=0)
    normalise_std: bool = True

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        return collect_advantages(self, groups, ctx, self._advantages)

    def _advantages(self, rewards: np.ndarray, kl: np.ndarray) -> np.ndarray:
        """Return the advantages, float[n], of the n replies to a prompt.

        Args:
            rewards: float[n], rewards of the replies.
            kl: not used, because the divergence is part of the loss.
        """
        advantages = rewards - rewards.mean()
        if self.normalise_std:
            advantages = advantages / (rewards.std(ddof=1) + 1e-4)
        return self.reward_weight * advantages

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss averaged over completions, and the metrics and the entropy averaged over tokens.

        `outputs.logprobs`: float32[N], log-probabilities of the batch's completion tokens.
        """
        assert outputs.logprobs is not None
        losses, ratio = clipped(outputs.logprobs - batch.old_logprobs, batch.advantages, self.clip_low, self.clip_high)
        kl = k3(batch.ref_logprobs - outputs.logprobs)
        terms = {"loss_policy": Term((batch.completion_sums(losses) / batch.completion_lengths).sum(), "completions")}
        if self.kl_weight:
            means = batch.completion_sums(kl) / batch.completion_lengths
            terms["loss_kl"] = Term(means.sum(), "completions", self.kl_weight)
        metrics = ratio_metrics(ratio, self.clip_low, self.clip_high, "tokens")
        return terms | metrics | self.common_terms(outputs, batch)
