"""The trainable language model: log-probabilities of packed completions."""

from typing import Any

import numpy as np
import torch

from psychocounsel.data.batch import Batch
from psychocounsel.model.logprobs import OutputLayer
from psychocounsel.model.lora import Adapter
from psychocounsel.model.packed import PackedModel


class Policy(PackedModel):
    """Wraps a causal language model.

    Logits are divided by `temperature`, as those of the distribution that replies are sampled from.
    """

    def __init__(
        self,
        lm: Any,
        name: str,
        adapter: Adapter | None = None,
        attention: str = "auto",
        device: str = "cpu",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(lm, name, adapter, attention, device)
        self.temperature = temperature
        self.output_layer = [OutputLayer.of(lm.get_output_embeddings())]  # in a list: it is a part of `lm` already

    def forward(self, batch: Batch, entropy: bool = False) -> Any:
        """float32[N]: log-probabilities of `batch.target_ids`; with `entropy` a pair of them and of the entropies there."""
        hidden = self.hidden(batch)[batch.rows, batch.columns]
        softcap = getattr(self.text_config, "final_logit_softcapping", None)
        return self.output_layer[0](hidden, batch.target_ids, self.temperature, softcap, entropy)

    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        return batch.split_completions(output)

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """float32[c]: log-probabilities of the completion."""
        ids = torch.cat([prompt, completion])[None]
        logits = self.lm(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / self.temperature
        return logits.log_softmax(-1).gather(1, completion[:, None]).squeeze(1)
