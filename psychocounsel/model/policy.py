"""The trainable policy: log-probabilities of packed completions."""

from typing import Any

import numpy as np
import torch
from torch import nn

from psychocounsel.data.batch import Batch
from psychocounsel.model.head import Head
from psychocounsel.model.logprobs import OutputLayer
from psychocounsel.model.lora import Adapter
from psychocounsel.model.packed import PackedModel


class Policy(PackedModel):
    """Wraps a causal language model.

    Logits are divided by `temperature`, so log-probabilities are those of the distribution that replies are drawn from.
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
        # In a list, because nn.Module would register the layer twice: it is already a part of `lm`.
        self.output_layer = [OutputLayer.of(lm.get_output_embeddings())]
        self.value_head: Head | None = None

    def add_value_head(self, dtype: torch.dtype = torch.float32) -> None:
        """Make `forward` also give values, from a linear head on the trunk that gives 0 until it is trained.

        The head is used only in training. It is not a part of `lm`, which is exported and writes replies.
        """
        self.value_head = Head(self.text_config.hidden_size, 1, bias=False, dtype=dtype)
        # Random values would change the policy before the head has learned anything.
        nn.init.zeros_(self.value_head.weight)

    def forward(self, batch: Batch, logprobs: bool = True, entropy: bool = False, values: bool = False) -> Any:
        """Return float32[N], or a tuple of float32[N] in the order of the arguments, from one pass through the trunk.

        `logprobs`: log-probabilities of `batch.target_ids`. `entropy` (with `logprobs`): the entropy of each target's
        distribution [nats]. `values`: the value before each target, from the value head.
        """
        hidden = self.hidden(batch)[batch.rows, batch.columns]
        found: list[torch.Tensor] = []
        if logprobs:
            softcap = getattr(self.text_config, "final_logit_softcapping", None)
            output = self.output_layer[0](hidden, batch.target_ids, self.temperature, softcap, entropy)
            found += output if entropy else [output]
        if values:
            assert self.value_head is not None
            found.append(self.value_head(hidden).squeeze(-1))
        return found[0] if len(found) == 1 else tuple(found)

    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        return batch.split_completions(output)

    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the completion, float32[c]."""
        ids = torch.cat([prompt, completion])[None]
        logits = self.lm(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / self.temperature
        return logits.log_softmax(-1).gather(1, completion[:, None]).squeeze(1)
