"""Simple preference optimization (SimPO): the reward is the mean log-probability, without a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Needs, Outputs, Term
from psychocounsel.algo.pair_terms import PAIR_FIGURES, chosen_nll, pair_term, reward_metrics
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    from psychocounsel.data.batch import Batch


@dataclass
class SimPO(Algorithm):
    """SimPO: raise the chosen reply's mean log-probability above the rejected one's by a target margin.

    The loss of a pair is -log s(r_chosen - r_rejected - gamma), r = beta * mean token log-probability (arXiv
    2405.14734, eq. 6), s the logistic sigmoid. `gamma_beta_ratio` = gamma / beta is the target margin in mean
    log-probability; the authors tune this ratio. `sft_weight` adds the mean negative log-likelihood per token of the
    chosen replies.
    """

    beta: float = option(2.5, above=0)
    gamma_beta_ratio: float = option(0.55, at_least=0)
    label_smoothing: float = option(0.0, at_least=0, below=0.5)
    sft_weight: float = option(0.0, at_least=0)

    needs = Needs(data="pairs", weights=True)

    def figure_names(self) -> tuple[str, ...]:
        return (*PAIR_FIGURES, *(("loss_preference", "loss_sft") if self.sft_weight else ()))

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss averaged over pairs: -(1-e) log s(m) - e log s(-m), e = label_smoothing, m the margin after gamma.

        `outputs.logprobs`: float32[N], log-probabilities of the batch's completion tokens.
        """
        from torch.nn.functional import logsigmoid

        assert outputs.logprobs is not None
        chosen, rejected = batch.pairs(self.beta * batch.completion_sums(outputs.logprobs) / batch.completion_lengths)
        margin, smoothing = chosen - rejected - self.beta * self.gamma_beta_ratio, self.label_smoothing
        losses = -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)
        terms = {"loss_preference": pair_term(losses, batch)}
        if self.sft_weight:
            terms["loss_sft"] = chosen_nll(outputs.logprobs, batch, self.sft_weight)
        return terms | reward_metrics(chosen, rejected)
