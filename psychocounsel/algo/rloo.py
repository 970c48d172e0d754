"""REINFORCE leave-one-out (RLOO): the other replies to the same prompt are the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Outputs, Term
from psychocounsel.algo.policy_gradient import ReplyAdvantages, clipped, normalised, ratio_metrics
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np

    from psychocounsel.data.batch import Batch


@dataclass
class RLOO(ReplyAdvantages):
    """RLOO: reinforce replies with a higher return than the other replies to the same prompt (arXiv 2402.14740).

    A whole reply is one action. Its return is R = reward_weight * reward - kl_weight * log(pi_old / ref), and its
    advantage is R minus the mean return of the prompt's other replies. With `normalise_rewards` the
    rewards of a round have mean 0 and standard deviation 1. The loss is -advantage * ratio, ratio = pi / pi_old of the
    whole reply, clipped as in PPO. In a round's first step its gradient equals that of REINFORCE.
    """

    samples: int = option(4, at_least=2)
    kl_weight: float = option(0.05, at_least=0)
    reward_weight: float = option(1.0, at_least=0)
    normalise_rewards: bool | None = True  # None: as False, in runs of versions without this key
    clip: float = option(0.2, above=0)

    reply_is_one_action = True

    def scaled(self, rewards: list[np.ndarray]) -> list[np.ndarray]:
        return normalised(rewards) if self.normalise_rewards else rewards

    def advantages_of(self, rewards: np.ndarray, kl: np.ndarray) -> np.ndarray:
        returns = self.reward_weight * rewards - self.kl_weight * kl
        # A return minus the mean of the others is n/(n-1) times its deviation from the mean of all.
        return (returns - returns.mean()) * len(returns) / (len(returns) - 1)

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss and ratio metrics averaged over completions, and `common_terms` averaged over tokens.

        `outputs.logprobs`: float32[N], log-probabilities of the batch's completion tokens.
        """
        assert outputs.logprobs is not None
        difference = batch.completion_sums(outputs.logprobs - batch.old_logprobs)
        advantages = batch.completion_sums(batch.advantages) / batch.completion_lengths
        losses, ratio = clipped(difference, advantages, self.clip, self.clip)
        metrics = ratio_metrics(ratio, self.clip, self.clip, "completions")
        return {"loss_policy": Term(losses.sum(), "completions")} | metrics | self.common_terms(outputs, batch)
