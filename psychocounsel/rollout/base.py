"""What writes replies. Everything that asks for replies asks a Rollout, wherever its model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from psychocounsel.schema import option

if TYPE_CHECKING:
    from psychocounsel.data.group import Group


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


class Rollout(Protocol):
    def sync(self, version: int) -> None:
        """Write from now on with the policy's weights as they are, after `version` optimizer steps."""

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        """The prompts of `groups`, in order, with `n` new completions each.

        A completion's `ids` end with the end-of-turn token if its `finish_reason` is "stop", and were cut if it is "length".
        `logprobs` are those of the distribution it was drawn from, `policy_version` the optimizer step of the weights.
        """


@dataclass
class RolloutSettings:
    """What every way of writing replies can be told; `conf/rollout/` has a file for each."""

    max_tokens: int = option(512, at_least=1)
    top_p: float = option(1.0, above=0, at_most=1)
    top_k: int = option(0, at_least=0)
    shard_prompts: int = option(16, at_least=1)
    samples: int = option(4, at_least=0)
