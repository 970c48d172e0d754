"""What the trainable models share: a transformers model that runs packed batches, with or without its adapters."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from psychocounsel.data.batch import Batch
from psychocounsel.model.attention import Attention
from psychocounsel.model.cpu import adopt
from psychocounsel.model.lora import Adapter


class PackedModel(nn.Module, ABC):
    """Wraps a transformers model `lm`, whose LoRA layers, if it has any, `adapter` switches.

    A subclass says what `forward` makes of the hidden states, and how the same is had without packing (`alone`).
    """

    scores: ClassVar[bool] = False  # one value per completion, not per token

    def __init__(
        self, lm: Any, name: str, adapter: Adapter | None = None, attention: str = "auto", device: str = "cpu"
    ) -> None:
        super().__init__()
        self.lm = lm
        self.adapter = adapter
        self.text_config = lm.config.get_text_config()
        self.attention = Attention(self.text_config, attention, device, name)
        lm.set_attn_implementation(self.attention.implementation)
        adopt(lm)

    @property
    def drops(self) -> bool:
        """Whether the model has dropout, in attention or elsewhere."""
        return self.attention.drops or any(isinstance(part, nn.Dropout) and part.p for part in self.modules())

    def hidden(self, batch: Batch) -> torch.Tensor:
        """[B, T, H]: the last hidden states of a packed batch."""
        inputs = self.attention.inputs(batch, self.lm.get_input_embeddings().weight.dtype)
        output = self.lm.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **inputs
        )
        return output.last_hidden_state

    @abstractmethod
    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        """`forward`'s output, cut into one array per completion, grouped as `batch.groups`."""

    @abstractmethod
    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """What `pieces` holds for int64[p] and int64[c] token ids, from a plain forward pass over them alone."""

    def settings(self, about: dict[str, Any]) -> dict[str, Any]:
        """What the exported config.json is to say besides; `about` holds the step and the evaluation."""
        return {}

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Compute as the model did before its adapters were trained; without adapters nothing changes."""
        if self.adapter is None:
            yield
            return
        with self.adapter.off():
            yield
