"""Group: one prompt and the replies to it, the unit on which every algorithm trains."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psychocounsel.data.messages import Message
from psychocounsel.storage.files import replacing

Array = np.ndarray

_PER_TOKEN = ("logprobs", "ref_logprobs", "values", "advantages", "returns")
_PER_TURN = ("turn_rewards", "turn_shares")
# How a session may end before its last turn, with the name of the figure and of the penalty: the client left, the next turn
# had no room, or the chat template cannot continue the policy's turn without changing it, such as one with thoughts.
SESSION_ENDS = {"left": "client_left", "room": "out_of_room", "rewritten": "rewritten"}


@dataclass
class Completion:
    """One reply, or a stretch of a session in which turns of the policy and of the client alternate.

    `ids`: int32[len], ending with the end-of-turn token unless the reply was cut.
    `trained`: bool[len], True for the tokens of the policy's turns; None: all tokens. The other tokens are only read: they
    enter no sum, mean, length or loss. In collected groups, tokens that an algorithm masks are not trained either.
    `logprobs`, `ref_logprobs`, `values`, `advantages`, `returns`: float32[trained tokens] or None. The rollout fills
    `logprobs`; policy gradient algorithms replace them by those of the trainer.
    `reward`: the reward model's score, or the raters' mean rating. `reward_parts`: scores of the members, if the reward
    is an ensemble. `label`: True for a good reply. `policy_version`: optimizer step of the weights that wrote it.
    `ratings`: float32[7], the raters' mean rating on each of `PRINCIPLES`, NaN where it is not applicable.
    `engines`: for each of the policy's turns, the name of the engine that wrote it, if the rollout has several.
    `session`: the messages of a session that a simulated client took part in, from the policy's first to its last turn.
    `turn_scores`: float64[scored turns], the rewards of a session's turns; `turn_parts` are their `reward_parts`.
    `turn_rewards`: float32[policy's turns], the parts of `reward` that its turns earned; they add up to it.
    `turn_shares`: float32[policy's turns], how a constant that is added to all `turn_scores` is divided among them.
    """

    ids: Array
    text: str = ""
    logprobs: Array | None = None
    ref_logprobs: Array | None = None
    values: Array | None = None
    advantages: Array | None = None
    reward: float | None = None
    finish_reason: str | None = None  # "stop", "length" (cut at the limit), or one of `SESSION_ENDS`
    policy_version: int | None = None
    label: bool | None = None
    returns: Array | None = None
    reward_parts: dict[str, float] | None = None
    ratings: Array | None = None
    trained: Array | None = None
    session: list[Message] | None = None
    turn_scores: Array | None = None
    turn_parts: list[dict[str, float]] | None = None
    turn_rewards: Array | None = None
    engines: list[str] | None = None
    turn_shares: Array | None = None

    def __post_init__(self) -> None:
        if self.trained is not None and self.trained.all():
            self.trained = None  # one form for equal completions, because keys of caches contain it

    @property
    def trained_tokens(self) -> int:
        """Number of trained tokens."""
        return len(self.ids) if self.trained is None else int(self.trained.sum())

    @property
    def trained_ids(self) -> Array:
        """The trained tokens, int32[trained tokens]: those of the policy's turns."""
        return self.ids if self.trained is None else self.ids[self.trained]

    @property
    def turn_lengths(self) -> list[int]:
        """Number of tokens of each of the policy's turns."""
        if self.trained is None:
            return [len(self.ids)]
        edges = np.flatnonzero(np.diff(self.trained, prepend=False, append=False))
        return [int(end - start) for start, end in edges.reshape(-1, 2)]

    def cut(self, length: int) -> "Completion":
        """Return the first `length` tokens."""
        cut = replace(self, ids=self.ids[:length], trained=None if self.trained is None else self.trained[:length])
        for name in _PER_TOKEN:
            if (values := getattr(self, name)) is not None:
                setattr(cut, name, values[: cut.trained_tokens])
        return cut

    def with_trained(self, kept: Array) -> "Completion":
        """Return the completion with fewer trained tokens: those of `kept`, bool[trained tokens]."""
        if kept.all():
            return self
        trained = np.ones(len(self.ids), bool) if self.trained is None else self.trained.copy()
        trained[trained] = kept
        rest = replace(self, trained=trained)
        for name in _PER_TOKEN:
            if (values := getattr(self, name)) is not None:
                setattr(rest, name, values[kept])
        return rest

    def then(self, between: Array, later: "Completion") -> "Completion":
        """Return this completion, the tokens `between`, which are not trained, and `later` as one stretch.

        Of the values per token it keeps the rollout's `logprobs`.
        """
        masks = [np.ones(len(part.ids), bool) if part.trained is None else part.trained for part in (self, later)]
        known = self.logprobs is not None and later.logprobs is not None
        return Completion(
            np.concatenate([self.ids, between, later.ids]),
            f"{self.text}\n\n{later.text}",
            logprobs=np.concatenate([self.logprobs, later.logprobs]) if known else None,
            finish_reason=later.finish_reason,
            policy_version=later.policy_version,
            label=later.label,
            trained=np.concatenate([masks[0], np.zeros(len(between), bool), masks[1]]),
            engines=[*self.engines, *later.engines] if self.engines and later.engines else None,
        )


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
        return len(self.prompt_ids) + sum(len(completion.ids) for completion in self.completions)

    @property
    def trained_lengths(self) -> tuple[int, ...]:
        """Number of trained tokens of each completion."""
        return tuple(completion.trained_tokens for completion in self.completions)

    def shortened(self) -> "Group":
        """Return the group with its prompt and completions cut to one token, as filler of an empty micro-batch."""
        # A filler trains its tokens even if they are masked, because a loss may divide by their number.
        completions = [replace(completion, trained=None).cut(1) for completion in self.completions]
        return replace(self, prompt_ids=self.prompt_ids[:1], completions=completions)


def reference_of(groups: Sequence[Group]) -> list[list[Array]] | None:
    """Return `ref_logprobs` of every completion; None if any completion lacks them."""
    logprobs = [[completion.ref_logprobs for completion in group.completions] for group in groups]
    known = [[values for values in of_group if values is not None] for of_group in logprobs]
    return known if list(map(len, known)) == list(map(len, logprobs)) else None


_FLOATS = pa.list_(pa.float32())
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
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
        ("trained", pa.list_(pa.bool_())),
        ("session", _MESSAGES),
        ("engines", pa.list_(pa.string())),
        ("turn_scores", pa.list_(pa.float64())),
        ("turn_parts", pa.list_(pa.map_(pa.string(), pa.float64()))),
        *((name, _FLOATS) for name in _PER_TURN),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("prompt_text", pa.string()),
        ("messages", _MESSAGES),
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
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)


def read_groups(path: Path) -> list[Group]:
    """Read a file of `write_groups`."""

    def array(values: list[float] | None) -> Array | None:
        return None if values is None else np.array(values, np.float32)

    def completion(row: dict[str, Any]) -> Completion:
        arrays = {name: array(row.get(name)) for name in (*_PER_TOKEN, *_PER_TURN, "ratings")}
        parts, scores, of_turns = (row.get(name) for name in ("reward_parts", "turn_scores", "turn_parts"))
        trained = None if row.get("trained") is None else np.array(row["trained"], bool)
        arrays |= {"ids": np.array(row["ids"], np.int32), "trained": trained}
        arrays["turn_scores"] = None if scores is None else np.array(scores, np.float64)
        maps = {"reward_parts": parts and dict(parts), "turn_parts": of_turns and [*map(dict, of_turns)]}
        known = {**row, **arrays, **maps}
        return Completion(**known)

    def group(row: dict[str, Any]) -> Group:
        completions = [completion(entry) for entry in row["completions"]]
        prompt = np.array(row["prompt_ids"], np.int32)
        return Group(row["id"], prompt, completions, row["prompt_text"], row["messages"])

    return [group(row) for row in pq.read_table(path).to_pylist()]
