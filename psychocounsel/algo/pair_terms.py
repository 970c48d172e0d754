"""Terms that losses of preference pairs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psychocounsel.algo.base import Term

if TYPE_CHECKING:
    import torch

    from psychocounsel.data.batch import Batch


PAIR_FIGURES = ("loss", "accuracy", "margin", "chosen")  # of held-out pairs: the loss, and those of `reward_metrics`


def pair_term(values: torch.Tensor, batch: Batch, weight: float = 1.0, engine: str = "policy") -> Term:
    """The mean over pairs of values, float[P], each times its weight in `batch.pair_weights`.

    Weights have mean 1 over all training pairs, so the sum is divided by the plain number of pairs: divided by the weights
    of its own batch, a pair alone in a batch would count fully whatever its weight.
    """
    weighted = values * batch.pair_weights
    return Term(weighted.sum(), "pairs", weight, engine, weighted)


def soft_losses(margin: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """-p log s(m) - (1-p) log s(-m) per pair, float[P]: the cross-entropy of margins m with soft labels p, float[P] each."""
    from torch.nn.functional import logsigmoid

    return -probabilities * logsigmoid(margin) - (1 - probabilities) * logsigmoid(-margin)


def reward_metrics(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, Term]:
    """Accuracy (a tie counts half), margin and the chosen reply's reward, from rewards of pairs, float[P] each.

    Weights of pairs do not count here.
    """
    chosen, margin = chosen.detach(), (chosen - rejected).detach()
    wins = (margin > 0).float() + 0.5 * (margin == 0).float()
    metrics = {"accuracy": wins, "margin": margin, "chosen": chosen}
    return {f"rewards/{name}": Term(value.sum(), "pairs", 0.0, each=value) for name, value in metrics.items()}


def chosen_nll(logprobs: torch.Tensor, batch: Batch, weight: float) -> Term:
    """The mean negative log-likelihood per token of the chosen replies, each times its pair's weight, from float[N]."""
    chosen, _ = batch.pairs(batch.completion_sums(logprobs))
    losses = -(chosen * batch.pair_weights)
    return Term(losses.sum(), "chosen_tokens", weight, each=losses)
