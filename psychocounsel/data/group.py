"""Group: one prompt and the replies to it, the unit on which every algorithm trains."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psychocounsel.data.rows import Message

Array = np.ndarray

_PER_TOKEN = ("logprobs", "ref_logprobs", "values", "advantages", "returns")


@dataclass
class Completion:
    """One reply. `ids`: int32[len], ending with the end-of-turn token unless the reply was cut.

    `logprobs`, `ref_logprobs`, `values`, `advantages`, `returns`: float32[len] or None. The rollout fills `logprobs`;
    policy gradient algorithms replace them by those of the trainer.
    `reward`: the reward model's score, or the raters' mean rating. `reward_parts`: scores of the members, if the reward
    is an ensemble. `label`: True for a good reply. `policy_version`: optimizer step of the weights that wrote it.
    `ratings`: float32[7], the raters' mean rating on each of `PRINCIPLES`, NaN where it is not applicable.
    """

    ids: Array
    text: str = ""
    logprobs: Array | None = None
    ref_logprobs: Array | None = None
    values: Array | None = None
    advantages: Array | None = None
    reward: float | None = None
    finish_reason: str | None = None  # "stop" or "length"
    policy_version: int | None = None
    label: bool | None = None
    returns: Array | None = None
    reward_parts: dict[str, float] | None = None
    ratings: Array | None = None


@dataclass
class Group:
    """One prompt (messages that end on the client's turn) with 1 reply (SFT), 2 replies (a pair, chosen first) or n.

    `messages`: the prompt before the policy's template, for prompts that get replies.
    `weight`: weight of an offline pair (`data.balance`). `probability`: probability that the first reply of an offline
    pair is preferred (`data.soft_labels`). Files of rounds contain neither of these two.
    """

    id: str
    prompt_ids: Array
    completions: list[Completion] = field(default_factory=list)
    prompt_text: str = ""
    messages: list[Message] | None = None
    weight: float = 1.0
    probability: float | None = None

    def pair(self, chosen: int, rejected: int) -> "Group":
        """Return the prompt with two of its completions."""
        completions = [self.completions[chosen], self.completions[rejected]]
        return replace(self, id=f"{self.id}-{chosen}-{rejected}", completions=completions)

    @property
    def tokens(self) -> int:
        """Number of tokens of the prompt and all completions."""
        return len(self.prompt_ids) + self.completion_tokens

    @property
    def completion_tokens(self) -> int:
        return sum(len(completion.ids) for completion in self.completions)

    def shortened(self, length: int = 1) -> "Group":
        """Return the group with its prompt and completions cut to `length` tokens, as filler of an empty micro-batch."""

        def cut(completion: Completion) -> Completion:
            arrays = {name: getattr(completion, name) for name in _PER_TOKEN}
            cuts: dict[str, Any] = {name: None if array is None else array[:length] for name, array in arrays.items()}
            return replace(completion, ids=completion.ids[:length], **cuts)

        return replace(self, prompt_ids=self.prompt_ids[:length], completions=[cut(c) for c in self.completions])


def reference_of(groups: Sequence[Group]) -> list[list[Array]] | None:
    """Return `ref_logprobs` of every completion; None if any completion lacks them."""
    logprobs = [[completion.ref_logprobs for completion in group.completions] for group in groups]
    known = [[values for values in of_group if values is not None] for of_group in logprobs]
    return known if list(map(len, known)) == list(map(len, logprobs)) else None


_FLOATS = pa.list_(pa.float32())
_COMPLETION = pa.struct(
    [
        ("ids", pa.list_(pa.int32())),
        ("text", pa.string()),
        *((name, _FLOATS) for name in _PER_TOKEN),
        ("reward", pa.float64()),
        ("finish_reason", pa.string()),
        ("policy_version", pa.int64()),
        ("label", pa.bool_()),
        ("reward_parts", pa.map_(pa.string(), pa.float64())),
        ("ratings", _FLOATS),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("prompt_text", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("completions", pa.list_(_COMPLETION)),
    ]
)


def write_groups(path: Path, groups: Iterable[Group]) -> None:
    """Write groups as parquet, completely or not at all."""
    rows = [
        {
            "id": group.id,
            "prompt_ids": group.prompt_ids,
            "prompt_text": group.prompt_text,
            "messages": group.messages,
            "completions": [vars(completion) for completion in group.completions],
        }
        for group in groups
    ]
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def read_groups(path: Path) -> list[Group]:
    """Read a file of `write_groups`."""

    def array(values: list[float] | None) -> Array | None:
        return None if values is None else np.array(values, np.float32)

    def completion(row: dict[str, Any]) -> Completion:
        arrays = {name: array(row.get(name)) for name in (*_PER_TOKEN, "ratings")}
        parts = row.get("reward_parts")
        known = {**row, **arrays, "ids": np.array(row["ids"], np.int32), "reward_parts": parts and dict(parts)}
        return Completion(**known)

    def group(row: dict[str, Any]) -> Group:
        completions = [completion(entry) for entry in row["completions"]]
        prompt = np.array(row["prompt_ids"], np.int32)
        return Group(row["id"], prompt, completions, row["prompt_text"], row["messages"])

    return [group(row) for row in pq.read_table(path).to_pylist()]
