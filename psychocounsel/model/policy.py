"""The trainable language model: a transformers model that answers with log-probabilities of packed completions."""

from typing import Any

import torch
from torch import nn

from psychocounsel.data.batch import Batch
from psychocounsel.model.attention import build_mask, layer_kinds
from psychocounsel.model.logprobs import token_logprobs


class Policy(nn.Module):
    """Wraps a `transformers` causal language model `lm`.

    Logits are divided by `temperature`, as those of the distribution that replies are sampled from.
    """

    def __init__(self, lm: Any, name: str, temperature: float = 1.0) -> None:
        super().__init__()
        self.lm = lm
        self.text_config = lm.config.get_text_config()
        self.kinds = layer_kinds(self.text_config, name)
        self.temperature = temperature

    def forward(self, batch: Batch) -> torch.Tensor:
        """float32[N]: log-probabilities of `batch.target_ids`."""
        dtype = next(self.lm.parameters()).dtype
        mask = build_mask(
            self.text_config, self.kinds, batch.position_ids, batch.group_index, batch.completion_index, dtype
        )
        output = self.lm.base_model(
            input_ids=batch.input_ids, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
        )
        hidden = output.last_hidden_state[batch.rows, batch.columns]
        return token_logprobs(hidden, batch.target_ids, self._logits, batch.chunks)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.lm.get_output_embeddings()(hidden)
        cap = getattr(self.text_config, "final_logit_softcapping", None)
        if cap:
            logits = torch.tanh(logits / cap) * cap
        return logits / self.temperature if self.temperature != 1.0 else logits
