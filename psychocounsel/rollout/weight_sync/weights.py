"""The policy's weights in pieces, for an engine that writes replies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from psychocounsel.model.lora import merged_parameters

if TYPE_CHECKING:
    import torch

    from psychocounsel.rollout.base import TrainedPolicy


_PIECE = 1 << 28  # bytes of weights sent at once


def weights_of(engine: TrainedPolicy) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Yield the named weights of a policy without adapters, about 256 MB at a time.

    Under ZeRO-3 all ranks must iterate together; at most one piece is gathered at a time.
    """
    piece: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, value in merged_parameters(engine.module.lm):
        piece.append((name, value.to(engine.dtype, copy=True)))
        size += piece[-1][1].nbytes
        if size >= _PIECE:
            yield piece
            piece, size = [], 0
    yield piece
