"""Supervised fine-tuning: maximise the likelihood of the good replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Needs, Outputs, Term

if TYPE_CHECKING:
    from psychocounsel.data.batch import Batch


@dataclass
class SFT(Algorithm):
    """Trains on `chosen` where the data are pairs, else on the completion."""

    needs = Needs(data="completions")

    def figure_names(self) -> tuple[str, ...]:
        return ("loss",)

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Mean negative log-likelihood per completion token, over the global batch."""
        assert outputs.logprobs is not None
        return {"nll": Term(-outputs.logprobs.sum(), "tokens", each=-batch.completion_sums(outputs.logprobs))}
