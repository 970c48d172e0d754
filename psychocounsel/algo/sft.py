"""Supervised fine-tuning: maximise the likelihood of the good replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Needs, Outputs, Term

if TYPE_CHECKING:
    from psychocounsel.data.batch import Batch


@dataclass
class SFT(Algorithm):
    """Fine-tunes on the chosen reply of each pair, or on the completion of each demonstration.

    The loss is the mean of -log pi(token) over all completion tokens.
    """

    needs = Needs(data="completions")

    def figure_names(self) -> tuple[str, ...]:
        return ("loss",)

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the negative log-likelihood averaged over the completion tokens of the global batch.

        `outputs.logprobs`: float32[N], log-probabilities of the batch's completion tokens.
        """
        assert outputs.logprobs is not None
        return {"nll": Term(-outputs.logprobs.sum(), "tokens", summands=-batch.completion_sums(outputs.logprobs))}
