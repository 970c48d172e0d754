"""Group relative policy optimization (GRPO), with the losses of Dr. GRPO, DAPO and GSPO."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Context, Outputs, RoundPlan, Term
from psychocounsel.algo.policy_gradient import ReplyAdvantages, clipped, kl_losses, ratio_metrics
from psychocounsel.counsel.pairs import rewards_differ
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class GRPO(ReplyAdvantages):
    """GRPO: compare each reply with the other replies to its prompt, so that no critic is needed.

    All tokens of a reply share its advantage. With rewards R of the prompt's replies, the advantage of reply i is
    reward_weight * (R_i - mean(R)) / std(R) (arXiv 2402.03300, sec. 4.1). `normalise_std=false` leaves out the division,
    as in arXiv 2503.20783.

    The loss of a token is PPO's clipped loss plus kl_weight * (ref/pi - log(ref/pi) - 1) (arXiv 2402.03300, eq. 3 and 4).
    `ratio="token"` clips each token's pi / pi_old. `ratio="sequence"` clips the geometric mean of a reply's token ratios
    (GSPO, arXiv 2507.18071, eq. 5 and 7).

    `kl_unbiased` multiplies the divergence of each token by its ratio pi / pi_old (see `kl_losses`).

    `aggregate` is the mean that the global batch gets from its tokens' losses:
        "reply"   over the tokens of a reply, then over replies (GRPO). A token of a long reply counts less.
        "tokens"  over all tokens of the batch (DAPO, arXiv 2503.14476, eq. 12). A long reply counts more.
        "budget"  their sum, divided by the number of replies times the constant `budget` (Dr. GRPO, arXiv 2503.20783,
                  sec. 3.2); in sessions also by the largest number of the policy's turns

    `resample`: prompts whose replies all have the same reward, up to rounding and before penalties, are replaced by new
    prompts, at most this many times in a round (dynamic sampling, arXiv 2503.14476, eq. 11). Those that remain are left out.
    """

    _turns = 1  # largest number of the policy's turns in a completion

    samples: int = option(4, at_least=2)
    kl_weight: float = option(0.04, at_least=0)
    kl_unbiased: bool = False
    reward_weight: float = option(1.0, at_least=0)
    clip_low: float = option(0.2, above=0, below=1)
    clip_high: float = option(0.2, above=0)
    normalise_std: bool = True
    ratio: str = option("token", choices=("token", "sequence"))
    aggregate: str = option("reply", choices=("reply", "tokens", "budget"))
    budget: int = option(512, at_least=1)
    resample: int = option(0, at_least=0)

    @property
    def round(self) -> RoundPlan:
        return replace(super().round, resample=self.resample)

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        if self.ratio == "sequence" and self.aggregate != "reply":
            raise UserError(
                f"algo.ratio=sequence and algo.aggregate={self.aggregate}: a reply has one ratio, and this aggregate would "
                "weigh it by its length; use algo.aggregate=reply"
            )
        if self.resample and config.rollout.get("max_staleness"):
            raise UserError(
                f"algo.resample={self.resample} and rollout.max_staleness={config.rollout.max_staleness}: a round that is "
                "written ahead has no rewards yet; use rollout.max_staleness=0, or algo.resample=0"
            )
        if self.resample and config.get("reward") is not None and config.reward.get("combine") == "constraint":
            raise UserError(
                f"algo.resample={self.resample} and reward.combine=constraint: prompts are replaced before the round's "
                "multiplier is known, which may tell their replies apart; use algo.resample=0, or reward.combine=lexicographic"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if self.importance_cap is not None or self.importance_floor is not None:
            unused.pop("ratio", None)  # it also decides how advantages are weighed
        if not self.kl_weight:
            unused["kl_unbiased"] = "algo.kl_weight=0 measures no divergence"
        if self.aggregate != "budget":
            unused["budget"] = f"algo.aggregate={self.aggregate} divides by no constant"
        return unused

    def importance(self, gap: np.ndarray) -> np.ndarray:
        """Return the importance weights of a reply's tokens; with `ratio="sequence"`, of their geometric mean."""
        import numpy as np

        return super().importance(np.full_like(gap, gap.mean()) if self.ratio == "sequence" else gap)

    def is_useful(self, group: Group, ctx: Context) -> bool:
        return rewards_differ([reply.reward or 0.0 for reply in group.completions])

    def batch_groups(self, groups: list[Group], ctx: Context) -> list[Group]:
        self._turns = ctx.turns
        return groups

    def advantages_of(self, rewards: np.ndarray, kl: np.ndarray) -> np.ndarray:
        """Return the advantages, float[n]; std has n - 1 in the denominator, plus 1e-4 against equal rewards.

        `kl` is not used, because the divergence is part of the loss.
        """
        advantages = rewards - rewards.mean()
        if self.normalise_std:
            advantages = advantages / (rewards.std(ddof=1) + 1e-4)
        return self.reward_weight * advantages

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss averaged by `aggregate`, and the metrics and the entropy averaged over tokens.

        `outputs.logprobs`: float32[N], log-probabilities of the batch's completion tokens.
        """
        assert outputs.logprobs is not None
        difference = outputs.logprobs - batch.old_logprobs
        if self.ratio == "sequence":
            means = batch.completion_sums(difference) / batch.completion_lengths
            difference = means[batch.completion_of]
        losses, ratio = clipped(difference, batch.advantages, self.clip_low, self.clip_high)
        terms = {"loss_policy": self._mean(losses, batch)}
        if self.kl_weight:
            terms["loss_kl"] = self._mean(kl_losses(outputs.logprobs, batch, self.kl_unbiased), batch, self.kl_weight)
        metrics = ratio_metrics(ratio, self.clip_low, self.clip_high, "tokens")
        return terms | metrics | self.common_terms(outputs, batch)

    def _mean(self, losses: torch.Tensor, batch: Batch, weight: float = 1.0) -> Term:
        """Return the term that averages the losses of tokens, float[N], by `aggregate`."""
        if self.aggregate == "tokens":
            return Term(losses.sum(), "tokens", weight)
        lengths = self.budget * self._turns if self.aggregate == "budget" else batch.completion_lengths
        return Term((batch.completion_sums(losses) / lengths).sum(), "completions", weight)
