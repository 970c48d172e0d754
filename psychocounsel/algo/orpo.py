"""Odds ratio preference optimization: supervised fine-tuning and preference in one loss, without a reference."""

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
    """ORPO (arXiv 2403.07691, eq. 6 and 7): NLL of the chosen reply - beta * log s(log odds(chosen) / odds(rejected)).

    odds = p / (1 - p) with log p the mean token log-probability of a reply. `beta` is the paper's lambda. The likelihood
    is that of the reply's tokens, as in the paper; TRL adds the prompt's.
    """

    beta: float = option(0.1, above=0)

    needs = Needs(data="pairs", weights=True)

    def figure_names(self) -> tuple[str, ...]:
        return (*PAIR_FIGURES, "loss_preference", "loss_sft")

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """The preference term per pair, the likelihood per chosen token; rewards are beta * log p."""
        from torch.nn.functional import logsigmoid

        assert outputs.logprobs is not None
        chosen, rejected = batch.pairs(batch.completion_sums(outputs.logprobs) / batch.completion_lengths)
        log_odds_ratio = _log_odds(chosen) - _log_odds(rejected)
        return {
            "loss_preference": pair_term(-logsigmoid(log_odds_ratio), batch, self.beta),
            "loss_sft": chosen_nll(outputs.logprobs, batch, 1.0),
        } | reward_metrics(self.beta * chosen, self.beta * rejected)


def _log_odds(logprobs: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of log p < 0, float[P]; p is kept off 1, where it has no value."""
    import torch

    logprobs = logprobs.clamp(max=-1e-6)
    return logprobs - torch.log(-torch.expm1(logprobs))
