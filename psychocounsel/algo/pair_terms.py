"""Loss terms and metrics that several pair losses share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psychocounsel.algo.base import Term

if TYPE_CHECKING:
    import torch

    from psychocounsel.data.batch import Batch


# Metrics on held-out pairs: the loss, and the names of `reward_metrics`.
PAIR_FIGURES = ("loss", "accuracy", "margin", "chosen")


def pair_term(values: torch.Tensor, batch: Batch, weight: float = 1.0, engine: str = "policy") -> Term:
    """Return the term that averages `values`, float[P], over pairs, each multiplied by its `batch.pair_weights`.

    The sum is divided by the number of pairs, not by the batch's sum of weights. Weights have mean 1 over all training
    pairs; dividing by a batch's own weights would cancel the weight of a pair that is alone in its batch.
    """
    weighted = values * batch.pair_weights
    return Term(weighted.sum(), "pairs", weight, engine, weighted)


def soft_losses(margin: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each pair with its soft label, float[P]: -p log s(m) - (1-p) log s(-m).

    s is the logistic sigmoid.

    Args:
        margin: float[P], margins m (chosen minus rejected).
        probabilities: float[P], probabilities p that the chosen reply is preferred.
    """
    from torch.nn.functional import logsigmoid

    return -probabilities * logsigmoid(margin) - (1 - probabilities) * logsigmoid(-margin)


def reward_metrics(chosen: torch.Tensor, rejected: torch.Tensor) -> dict[str, Term]:
    """Return `rewards/accuracy`, `rewards/margin` and `rewards/chosen`, averaged over pairs without their weights.

    The accuracy is the share of pairs with chosen > rejected; a tie counts half.

    Args:
        chosen: float[P], rewards of the chosen replies.
        rejected: float[P], rewards of the rejected replies.
    """
    chosen, margin = chosen.detach(), (chosen - rejected).detach()
    wins = (margin > 0).float() + 0.5 * (margin == 0).float()
    metrics = {"accuracy": wins, "margin": margin, "chosen": chosen}
    return {f"rewards/{name}": Term(value.sum(), "pairs", 0.0, summands=value) for name, value in metrics.items()}


def chosen_nll(logprobs: torch.Tensor, batch: Batch, weight: float) -> Term:
    """Return the mean negative log-likelihood per token of the chosen replies, each multiplied by its pair's weight.

    `logprobs`: float[N], log-probabilities of all completion tokens of the batch.
    """
    chosen, _ = batch.pairs(batch.completion_sums(logprobs))
    losses = -(chosen * batch.pair_weights)
    return Term(losses.sum(), "chosen_tokens", weight, summands=losses)
