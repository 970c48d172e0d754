"""The critic: the value of each state of a reply, before its next token is written."""

import numpy as np
import torch

from psychocounsel.data.batch import Batch
from psychocounsel.model.packed import PackedModel


class Critic(PackedModel):
    """Wraps a sequence-classification model of one label, whose linear head `score` reads values."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """float32[N]: the value where each of `batch.target_ids` is yet to come."""
        return self._values(self.hidden(batch)[batch.rows, batch.columns])

    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        return batch.split_completions(output)

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """float32[c]: the value before each token of the completion."""
        ids = torch.cat([prompt, completion])[None]
        hidden = self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return self._values(hidden[0, len(prompt) - 1 : -1])

    def _values(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm.score(hidden).squeeze(-1).float()
