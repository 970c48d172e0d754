"""Base class of trainable models: a transformers model that runs packed batches, with or without its adapters."""

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
    """Wraps a transformers model `lm`; `adapter` switches its LoRA layers, if it has any.

    A subclass computes its output from the hidden states (`forward`), and the same output without packing (`alone`).
    """

    scores: ClassVar[bool] = False  # True if the model gives one value per completion, not per token

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
        """True if the model has dropout, in attention or elsewhere."""
        return self.attention.drops or any(isinstance(part, nn.Dropout) and part.p for part in self.modules())

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return the last hidden states of a packed batch, [B, T, H]."""
        inputs = self.attention.inputs(batch, self.lm.get_input_embeddings().weight.dtype)
        output = self.lm.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **inputs
        )
        return output.last_hidden_state

    @abstractmethod
    def pieces(self, output: torch.Tensor, batch: Batch) -> list[list[np.ndarray]]:
        """Return `forward`'s output cut into one array per completion, grouped as `batch.groups`."""

    @abstractmethod
    def alone(self, prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Return the same values as `pieces`, from a plain forward pass over int64[p] prompt and int64[c] completion tokens."""

    def settings(self, about: dict[str, Any]) -> dict[str, Any]:
        """Return additional settings for the exported config.json; `about` holds the step and the evaluation."""
        return {}

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Compute without the trained adapters within this context; a model without adapters is unchanged."""
        if self.adapter is None:
            yield
            return
        with self.adapter.off():
            yield
