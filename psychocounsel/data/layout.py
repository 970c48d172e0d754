"""Layout of a packed row: the places of prompts and completions, and which of them belong together."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from psychocounsel.data.group import Group


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on `device`.

    A copy to a GPU is queued after the operations already queued there; this process does not wait for it.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True)
class Span:
    """Tokens of a prompt, `begin` to `end`, and of its completion, `start` to `stop`."""

    begin: int
    end: int
    start: int
    stop: int

    @property
    def is_whole(self) -> bool:
        """True if the completion follows its prompt directly."""
        return self.end == self.start

    @property
    def prompt(self) -> int:
        """Number of tokens of the prompt."""
        return self.end - self.begin

    @property
    def length(self) -> int:
        return self.prompt + self.stop - self.start


@dataclass
class Layout:
    """Pieces (prompts, completions, padding) of a row, in order.

    `sizes`: number of tokens of each piece. `prompts`: for each piece the index of the prompt that it continues; a
    prompt and padding point to themselves.
    """

    sizes: list[int]
    prompts: list[int]
    _tensors: dict[torch.device, tuple[torch.Tensor, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Sequence[Group], width: int) -> "Layout":
        """Return the layout of a row of `width` tokens that holds `groups`; padding at its end is a piece of its own."""
        sizes: list[int] = []
        prompts: list[int] = []
        for group in groups:
            prompts += [len(sizes)] * (1 + len(group.completions))
            sizes += [len(group.prompt_ids), *(len(completion.ids) for completion in group.completions)]
        if rest := width - sum(sizes):
            prompts.append(len(sizes))
            sizes.append(rest)
        return cls(sizes, prompts)

    @cached_property
    def sequences(self) -> list["Span"]:
        """Spans of each prompt with each of its completions; a piece without completions has a span of its own."""
        starts = [0, *itertools.accumulate(self.sizes)]
        spans = []
        for index, prompt in enumerate(self.prompts):
            if prompt != index:
                spans.append(Span(starts[prompt], starts[prompt + 1], starts[index], starts[index + 1]))
            elif self.prompts.count(index) == 1:
                spans.append(Span(starts[index], starts[index], starts[index], starts[index + 1]))
        return spans

    @property
    def seen_sizes(self) -> list[int]:
        """Number of tokens that the last token of each piece attends to."""
        own = enumerate(self.prompts)
        return [self.sizes[index] + (self.sizes[prompt] if prompt != index else 0) for index, prompt in own]

    def on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return three index tensors on `device` (cached): `(seen, starts, seen_starts)`.

        `seen`: int64[K], the tokens that each piece attends to, one piece after another.
        `starts`: int32[pieces+1], the start of each piece in the row, then the total.
        `seen_starts`: int32[pieces+1], the start of each piece in `seen`, then the total.
        """
        if device not in self._tensors:
            starts, seen_starts = np.cumsum([0, *self.sizes]), np.cumsum([0, *self.seen_sizes])
            spans = [np.arange(start, start + size) for start, size in zip(starts, self.sizes, strict=False)]
            seen = [
                spans[index] if prompt == index else np.concatenate([spans[prompt], spans[index]])
                for index, prompt in enumerate(self.prompts)
            ]
            arrays = np.concatenate(seen), starts.astype(np.int32), seen_starts.astype(np.int32)
            self._tensors[device] = tuple(moved(torch.from_numpy(array), device) for array in arrays)
        return self._tensors[device]
