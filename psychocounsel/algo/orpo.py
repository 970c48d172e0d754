"""Odds ratio preference optimization (ORPO): fine-tuning and preference learning in one loss, without a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Needs, Outputs, Term
from psychocounsel.algo.pair_terms import PAIR_FIGURES, chosen_nll, pair_term, reward_metrics
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import torch

    from psychocounsel.data.batch import Batch


@dataclass
class ORPO(Algorithm):
    """ORPO: raise the likelihood of the chosen reply, and its odds relative to the rejected reply.

    The loss is NLL(chosen) - beta * log s(log(odds(chosen) / odds(rejected))) (arXiv 2403.07691, eq. 6 and 7). s is the
    logistic sigmoid, odds = p / (1 - p), and log p is the mean token log-probability of a reply. `beta` is the paper's
    lambda. NLL covers the reply's tokens only, as in the paper; TRL also includes the prompt's tokens.
    """

    beta: float = option(0.1, above=0)

    needs = Needs(data="pairs", weights=True)

    def figure_names(self) -> tuple[str, ...]:
        return (*PAIR_FIGURES, "loss_preference", "loss_sft")

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the preference term, averaged over pairs, and the NLL, averaged over chosen tokens. Rewards are beta * log p.

        `outputs.logprobs`: float32[N], log-probabilities of the batch's completion tokens.
        """
        from torch.nn.functional import logsigmoid

        assert outputs.logprobs is not None
        chosen, rejected = batch.pairs(batch.completion_sums(outputs.logprobs) / batch.completion_lengths)
        log_odds_ratio = _log_odds(chosen) - _log_odds(rejected)
        return {
            "loss_preference": pair_term(-logsigmoid(log_odds_ratio), batch, self.beta),
            "loss_sft": chosen_nll(outputs.logprobs, batch, 1.0),
        } | reward_metrics(self.beta * chosen, self.beta * rejected)


def _log_odds(logprobs: torch.Tensor) -> torch.Tensor:
    """Return log(p / (1 - p)) from log p, float[P] each. p is kept below 1, because the odds of 1 are infinite."""
    import torch

    logprobs = logprobs.clamp(max=-1e-6)
    return logprobs - torch.log(-torch.expm1(logprobs))
