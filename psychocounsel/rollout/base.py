"""What writes replies. Everything that asks for replies asks a Rollout, wherever its model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Completion, Group
    from psychocounsel.model.packed import PackedModel


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn: `n` for each prompt, of at most `max_tokens` tokens and `max_length` with their prompt.

    `temperature` 0 takes the likeliest token. `top_k` 0 and `top_p` 1 leave the distribution as it is.
    """

    n: int
    temperature: float
    max_tokens: int
    max_length: int
    seed: int
    top_p: float = 1.0
    top_k: int = 0


class TrainedPolicy(Protocol):
    """What a rollout may know of the policy that training changes; the engine of the policy is one."""

    module: PackedModel
    dtype: torch.dtype

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype that forward passes compute in where it is not that of the weights."""


class Rollout(Protocol):
    """All ranks call each method together, each with groups of its own."""

    def sync(self, version: int) -> None:
        """Write from now on with the policy's weights as they are, after `version` optimizer steps."""

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        """The prompts of `groups`, in order, with `n` new completions each; a rank may have none.

        A completion's `ids` end with the end-of-turn token if its `finish_reason` is "stop", and were cut if it is "length".
        `logprobs` are those of the distribution it was drawn from, `policy_version` the optimizer step of the weights.
        """

    def rest(self) -> None:
        """Give back what only writing needs, until the next `sync`."""


@dataclass
class RolloutSettings:
    """What every way of writing replies can be told; `conf/rollout/` has a file for each.

    Each has `open(config, engine, tokenizer, stop, world) -> Rollout`, which all ranks call together: it starts writing with
    the weights of `engine`; `stop` are the ids of tokens that end a reply. Training divides logits by the same
    `temperature`, so that its log-probabilities are those of the distribution that replies are drawn from.
    """

    temperature: float = option(1.0, above=0)
    max_tokens: int = option(512, at_least=1)
    top_p: float = option(1.0, above=0, at_most=1)
    top_k: int = option(0, at_least=0)
    shard_prompts: int = option(16, at_least=1)
    shown_prompts: int = option(4, at_least=0)
    offload_idle: bool = False

    def check(self, config: DictConfig, processes: int) -> None:
        """Raises UserError for what this way of writing replies cannot do. Imports no torch."""


def training_temperature(config: DictConfig) -> float:
    """The temperature of the policy's log-probabilities: `rollout.temperature`, or 1 for algorithms without rollouts."""
    return float(config.rollout.temperature) if "rollout" in config else 1.0


def completion(ids: list[int], logprobs: list[float], tokenizer: Any, stop: Sequence[int], version: int) -> Completion:
    """A reply of tokens `ids`, ended by one of `stop` or cut."""
    import numpy as np

    from psychocounsel.data.group import Completion

    ended = ids[-1] in stop
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    arrays = np.array(ids, np.int32), text, np.array(logprobs, np.float32)
    return Completion(*arrays, finish_reason="stop" if ended else "length", policy_version=version)
