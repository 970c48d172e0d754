"""The trainable language model: log-probabilities of packed completions."""

from typing import Any

import numpy as np
import torch

from psychocounsel.data.batch import Batch
from psychocounsel.model.logprobs import token_logprobs
from psychocounsel.model.lora import Adapter
from psychocounsel.model.packed import PackedModel


class Policy(PackedModel):
    """Wraps a causal language model.

    Logits are divided by `temperature`, as those of the distribution that replies are sampled from.
    """

    def __init__(self, lm: Any, name: str, adapter: Adapter | None = None, temperature: float = 1.0) -> None:
        super().__init__(lm, name, adapter)
        self.temperature = temperature

    def forward(self, batch: Batch) -> torch.Tensor:
        """float32[N]: log-probabilities of `batch.target_ids`."""
        hidden = self.hidden(batch)[batch.rows, batch.columns]
        return token_logprobs(hidden, batch.target_ids, self._logits, batch.chunks)

    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        return batch.split_completions(output)

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """float32[c]: log-probabilities of the completion."""
        ids = torch.cat([prompt, completion])[None]
        logits = self.lm(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / self.temperature
        return logits.log_softmax(-1).gather(1, completion[:, None]).squeeze(1)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.lm.get_output_embeddings()(hidden)
        cap = getattr(self.text_config, "final_logit_softcapping", None)
        if cap:
            logits = torch.tanh(logits / cap) * cap
        return logits / self.temperature if self.temperature != 1.0 else logits
