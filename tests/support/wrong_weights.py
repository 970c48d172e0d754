"""Callback that falsifies the weights that a run sends to vLLM."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.engine.callbacks import Callback


@dataclass
class WrongWeights(Callback):
    """Leaves out the weights `without`, and sends those in `noisy` with noise as large as themselves."""

    without: list[str] = field(default_factory=list)
    noisy: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch

        from psychocounsel.rollout import weight_sync

        whole = weight_sync.weights_of

        def falsified(engine: Any) -> Iterator[Any]:
            for piece in whole(engine):
                yield [
                    (name, value + value.std() * torch.randn_like(value) if name in self.noisy else value)
                    for name, value in piece
                    if name not in self.without
                ]

        weight_sync.weights_of = falsified
