"""The reward model: one score per packed completion, read at its last token."""

from typing import Any

import numpy as np
import torch

from psychocounsel.data.batch import Batch
from psychocounsel.model.packed import PackedModel


class RewardModel(PackedModel):
    """Wraps a sequence-classification model with one label, whose linear head is called `score`."""

    scores = True

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the score of each completion, float32[C]."""
        return self._score(self.hidden(batch)[batch.last_rows, batch.last_columns])

    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        scores = iter(output.cpu().numpy())
        return [[np.array([next(scores)]) for _ in group.completions] for group in batch.groups]

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Return the score, float32[1], from the model's trunk and head."""
        ids = torch.cat([prompt, completion])[None]
        return self._score(self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1:])

    def settings(self, about: dict[str, Any]) -> dict[str, Any]:
        """Return mean and standard deviation of the held-out rewards, under names that OpenRLHF reads, too.

        They are None if unknown, because the model that training started from may have had its own.
        """
        return {"mean": about.get("eval/reward_mean"), "std": about.get("eval/reward_std")}

    def _score(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.lm.score(hidden).squeeze(-1)
