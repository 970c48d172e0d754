"""Micro-batch of groups packed in rows: each prompt appears once, and a completion sees only its prompt and itself."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from psychocounsel.data.group import Array, Group
from psychocounsel.data.layout import Layout, moved

T = TypeVar("T")


@dataclass
class Batch:
    """B rows of T tokens with N trained tokens in C completions (P pairs, if all groups are pairs).

    `input_ids`, `position_ids`, `group_index`, `completion_index`: int64[B, T]. In every completion, positions continue
    from its prompt. `group_index` numbers the groups of a row (-1: padding). `completion_index` is 0 in a prompt and k
    in the k-th completion.
    `rows`, `columns`: int64[N], place of the token that predicts each of `target_ids`, int64[N], the trained tokens.
    `completion_of`: int64[N], the completion of each trained token, 0..C-1, in the order of `groups`.
    `completion_lengths`: int64[C], number of trained tokens of each completion.
    `last_rows`, `last_columns`: int64[C], place of each completion's last token, which a reward model scores.
    `weight` is 0 for the filler of an empty micro-batch.
    """

    groups: list[Group]
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    group_index: torch.Tensor
    completion_index: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    target_ids: torch.Tensor
    completion_of: torch.Tensor
    completion_lengths: torch.Tensor
    last_rows: torch.Tensor
    last_columns: torch.Tensor
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        """Number of real tokens; a shared prompt counts once. 0 for a filler."""
        return sum(group.tokens for group in self.groups) if self.weight else 0

    @cached_property
    def layout(self) -> Layout:
        """Layout of a batch that has a single row."""
        (_,) = self.input_ids
        return Layout.of(self.groups, self.input_ids.shape[1])

    @cached_property
    def ref_logprobs(self) -> torch.Tensor:
        """Log-probabilities under the reference, float32[N]."""
        return self._per_token([completion.ref_logprobs for group in self.groups for completion in group.completions])

    @cached_property
    def old_logprobs(self) -> torch.Tensor:
        """Log-probabilities under the policy before the round's steps (`Completion.logprobs`), float32[N]."""
        return self._per_token([completion.logprobs for group in self.groups for completion in group.completions])

    @cached_property
    def advantages(self) -> torch.Tensor:
        """Advantages of the tokens, float32[N]."""
        return self._per_token([completion.advantages for group in self.groups for completion in group.completions])

    @cached_property
    def old_values(self) -> torch.Tensor:
        """Values of the critic when the replies were collected, float32[N]."""
        return self._per_token([completion.values for group in self.groups for completion in group.completions])

    @cached_property
    def returns(self) -> torch.Tensor:
        """Targets of the critic, float32[N]."""
        return self._per_token([completion.returns for group in self.groups for completion in group.completions])

    @cached_property
    def rewards(self) -> torch.Tensor:
        """Reward or mean rating of each completion, float32[C]."""
        return self._per_completion([completion.reward for group in self.groups for completion in group.completions])

    @cached_property
    def ratings(self) -> torch.Tensor:
        """Rating of each completion on each principle, float32[C, 7]; NaN where it is not applicable."""
        present = [completion.ratings for group in self.groups for completion in group.completions]
        return self._per_token(present).reshape(len(present), -1)

    @cached_property
    def labels(self) -> torch.Tensor:
        """Label of each completion, float32[C]: 1 for good, 0 for bad."""
        return self._per_completion([completion.label for group in self.groups for completion in group.completions])

    @cached_property
    def pair_weights(self) -> torch.Tensor:
        """Weight of each pair in the loss, float32[P]."""
        return self._floats([group.weight for group in self.groups])

    @cached_property
    def pair_probabilities(self) -> torch.Tensor | None:
        """Probability that each pair's chosen reply is preferred, float32[P]; None if no pair has a soft label."""
        probabilities = [group.probability for group in self.groups]
        if all(probability is None for probability in probabilities):
            return None
        return self._floats([1.0 if probability is None else probability for probability in probabilities])

    def _floats(self, values: Sequence[float]) -> torch.Tensor:
        return moved(torch.tensor(values, dtype=torch.float32), self.target_ids.device)

    def _per_completion(self, values: Sequence[float | None]) -> torch.Tensor:
        present = [value for value in values if value is not None]
        if len(present) < len(values):
            raise ValueError("a completion lacks the reward or label that the algorithm uses: its `check` must say so")
        return self._floats(present)

    def _per_token(self, arrays: Sequence[Array | None]) -> torch.Tensor:
        present = [array for array in arrays if array is not None]
        if len(present) < len(arrays):
            raise ValueError("a completion lacks the values that the algorithm uses: its `collect` must fill them")
        return moved(torch.from_numpy(np.concatenate(present)), self.target_ids.device)

    def completion_sums(self, per_token: torch.Tensor) -> torch.Tensor:
        """Return the sum of `per_token`, float[N], over each completion, float[C]."""
        zeros = per_token.new_zeros(len(self.completion_lengths))
        return zeros.index_add(0, self.completion_of, per_token)

    def pairs(self, per_completion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Split `per_completion`, float[C], into the values of chosen and rejected replies, float[P] each."""
        return per_completion[0::2], per_completion[1::2]

    def split_completions(self, per_token: torch.Tensor) -> list[list[Array]]:
        """Split `per_token`, [N], into one array for each completion of each group."""
        pieces = iter(np.split(per_token.float().cpu().numpy(), self.completion_lengths.cpu().numpy().cumsum()[:-1]))
        return [[next(pieces) for _ in group.completions] for group in self.groups]

    def to(self, device: torch.device) -> "Batch":
        return self._with(lambda tensor: moved(tensor, device))

    def pinned(self) -> "Batch":
        """Return the batch in pinned host memory, from which a GPU copies without waiting."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, place: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """Return the batch with `place` applied to its tensors; cached properties are dropped."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return Batch(
            **{name: place(value) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        )


def build_batch(rows: Sequence[Sequence[Group]], weight: float = 1.0, multiple: int = 1) -> Batch:
    """Pack each sequence of groups into one row, padded on the right to the longest row and to a `multiple` of tokens."""
    width = max(sum(group.tokens for group in row) for row in rows)
    width += -width % multiple
    shape = (len(rows), width)
    tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    group_index, completion_index = np.full(shape, -1), np.zeros(shape, np.int64)
    where: list[tuple[Array, Array, Array]] = []
    ends: list[tuple[int, int]] = []
    for row_number, row in enumerate(rows):
        start = 0
        for number, group in enumerate(row):
            prompt = len(group.prompt_ids)
            parts = [group.prompt_ids, *(completion.ids for completion in group.completions)]
            stop = start + group.tokens
            tokens[row_number, start:stop] = np.concatenate(parts)
            group_index[row_number, start:stop] = number
            positions[row_number, start : start + prompt] = np.arange(prompt)
            last, cursor = start + prompt - 1, start + prompt
            for index, completion in enumerate(group.completions, 1):
                length = len(completion.ids)
                span = np.arange(cursor, cursor + length)
                positions[row_number, span] = np.arange(prompt, prompt + length)
                completion_index[row_number, span] = index
                before, ids = np.concatenate([[last], span[:-1]]), completion.ids
                if completion.trained is not None:
                    before, ids = before[completion.trained], ids[completion.trained]
                where.append((np.full(len(ids), row_number), before, ids))
                cursor += length
                ends.append((row_number, cursor - 1))
            start = stop
    row_ids, columns, targets = (np.concatenate(parts).astype(np.int64) for parts in zip(*where, strict=True))
    lengths = np.array([len(ids) for _, _, ids in where])
    return Batch(
        groups=[group for row in rows for group in row],
        input_ids=torch.from_numpy(tokens),
        position_ids=torch.from_numpy(positions),
        group_index=torch.from_numpy(group_index),
        completion_index=torch.from_numpy(completion_index),
        rows=torch.from_numpy(row_ids),
        columns=torch.from_numpy(columns),
        target_ids=torch.from_numpy(targets),
        completion_of=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        completion_lengths=torch.from_numpy(lengths),
        last_rows=torch.tensor([row for row, _ in ends]),
        last_columns=torch.tensor([column for _, column in ends]),
        weight=weight,
    )


def one_ahead(items: Iterator[T], begin: Callable[[], None]) -> Iterator[T]:
    """Yield the items in order; a thread makes the next item, such as a batch, while the present one is in use.

    The thread calls `begin` first. An exception raised while an item is made is raised in its place.
    """
    end = object()
    with ThreadPoolExecutor(1, "next-batch", begin) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
