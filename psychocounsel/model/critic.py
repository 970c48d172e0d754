"""The critic: a model that estimates the value of a reply before each of its tokens."""

import numpy as np
import torch

from psychocounsel.data.batch import Batch
from psychocounsel.model.packed import PackedModel


class Critic(PackedModel):
    """Wraps a sequence-classification model with one label, whose linear head `score` gives the values."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the value before each of `batch.target_ids`, float32[N]."""
        return self._values(self.hidden(batch)[batch.rows, batch.columns])

    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        return batch.split_completions(output)

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Return the value before each token of the completion, float32[c]."""
        ids = torch.cat([prompt, completion])[None]
        hidden = self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return self._values(hidden[0, len(prompt) - 1 : -1])

    def _values(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm.score(hidden).squeeze(-1)
