"""The contract of rollouts: settings, which `conf/rollout/` can name, open a Rollout, which writes replies to prompts.

A rollout of a user's own is a dataclass that derives from RolloutSettings and a class that derives from Rollout. What
derives from neither is refused before a run starts.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from psychocounsel.errors import UserError
from psychocounsel.settings.contract import Contract, GroupSettings
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Completion, Group
    from psychocounsel.distributed.world import World
    from psychocounsel.model.packed import PackedModel
    from psychocounsel.model.shape import Shape


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn: `n` for each prompt, of at most `max_tokens` tokens and `max_length` with their prompt.

    `temperature` 0 takes the likeliest token. `top_k` 0 and `top_p` 1 leave the distribution as it is. Random numbers come from
    `seed`. `seeds`, if there are any, are those of the prompts in their order, which several shards bring together.
    """

    n: int
    temperature: float
    max_tokens: int
    max_length: int
    seed: int
    top_p: float = 1.0
    top_k: int = 0
    seeds: tuple[int, ...] = ()

    def seed_of(self, place: int) -> int:
        """The seed of the prompt at `place`, for rollouts that draw each prompt's replies by a seed of its own."""
        return self.seeds[place] if self.seeds else (self.seed + 1_000_003 * place) % (1 << 31)


Shard = tuple[list["Group"], Sampling]  # prompts, and how their replies are drawn


def sampling_of(config: DictConfig, samples: int, number: int, shard: int) -> Sampling:
    """How `samples` replies to each prompt of a shard are drawn, by the settings of a run: seeded by the round's `number`."""
    import numpy as np

    rollout = config.rollout
    seed = int(np.random.SeedSequence([config.seed, number, shard]).generate_state(1)[0])
    limits = (samples, rollout.temperature, rollout.max_tokens, config.max_length, seed)
    return Sampling(*limits, rollout.top_p, rollout.top_k)


def together(shards: Sequence[Shard]) -> Shard:
    """Shards as one: each prompt keeps the seed that it has in its own shard."""
    if len(shards) == 1:
        return shards[0]
    seeds = tuple(sampling.seed_of(place) for prompts, sampling in shards for place in range(len(prompts)))
    return [prompt for prompts, _ in shards for prompt in prompts], replace(shards[0][1], seeds=seeds)


class TrainedPolicy(Protocol):
    """What a rollout may know of the policy that training changes; the engine of the policy is one."""

    module: PackedModel
    dtype: torch.dtype

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype that forward passes compute in where it is not that of the weights."""


class Rollout(Contract):
    """Writes replies, wherever its model runs. A subclass must define `sync` and `generate`.

    All ranks call `sync`, `generate` and `rest` together, each with groups of its own.

    Attributes:
        rounds_ahead: how many of the next rounds `generate_alone` writes while a round is scored and trained on, with weights
            that are as many rounds old at most.
        draws_by_prompt: whether each prompt's replies come from `Sampling.seed_of` alone, whatever else is written with it.
            Shards may then be smaller where there are many ranks, and the replies are the same for any number of them.
    """

    rounds_ahead: int = 0
    draws_by_prompt: bool = False

    @abstractmethod
    def sync(self, version: int) -> None:
        """Write from now on with the policy's weights as they are, after `version` optimizer steps."""

    @abstractmethod
    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        """The prompts of `groups`, in order, with `n` new completions each; a rank may have none.

        A completion's `ids` end with the end-of-turn token if its `finish_reason` is "stop", and were cut if it is "length".
        `logprobs` are those of the distribution it was drawn from, `policy_version` the optimizer step of the weights.
        `completion`, below, makes one of its tokens.
        """

    def prompts_at_once(self, n: int) -> int:
        """How many prompts, with `n` replies each, `generate` needs to be busy: whole shards are put together until they are as
        many. The same on all ranks; default: one shard is enough.
        """
        return 1

    def generate_alone(self, groups: Sequence[Group], sampling: Sampling) -> list[Group] | None:
        """As `generate`, on this rank alone and from any thread; asked only of a rollout that writes ahead.

        None: it cannot now, and the replies are to be written when their round begins.
        """
        return None

    def rest(self) -> None:
        """Give back what only writing needs, until the next `sync`. Default: nothing is kept."""


def at_once(rollout: Rollout, shard_prompts: int, n: int) -> int:
    """How many shards of so many prompts are given to one `generate`."""
    return max(1, math.ceil(rollout.prompts_at_once(n) / shard_prompts))


@dataclass
class RolloutSettings(GroupSettings):
    """The settings of a rollout: each field is a key of `rollout.*`. A subclass must define `open`. Imports no torch.

    Training divides logits by the same `temperature`, so that its log-probabilities are those of the distribution that
    replies are drawn from.
    """

    config_group: ClassVar[str] = "rollout"
    shares_gpus: ClassVar[bool] = True  # replies are written on the GPUs that train
    copies_weights: ClassVar[bool] = False  # after `sync` the policy's own weights are not read until the next one

    temperature: float = option(1.0, above=0)
    max_tokens: int = option(512, at_least=1)
    top_p: float = option(1.0, above=0, at_most=1)
    top_k: int = option(0, at_least=0)
    shard_prompts: int = option(16, at_least=1)
    shown_prompts: int = option(4, at_least=0)
    offload_idle: bool = False

    @abstractmethod
    def open(
        self, config: DictConfig, engine: TrainedPolicy, tokenizer: Any, stop: Sequence[int], world: World
    ) -> Rollout:
        """Begin to write with the weights of `engine`; `stop` are the ids of tokens that end a reply. All ranks together."""

    def check(self, config: DictConfig, processes: int) -> None:
        """Raises UserError for what this way of writing replies cannot do."""

    def lacking(self) -> str:
        """What is not installed here and a run needs, and how to install it; empty, the default, if all is. No torch."""
        return ""

    def unused(self, config: DictConfig) -> dict[str, str]:
        """Fields that nothing reads with these settings, each with the reason: typing one of them is refused. No torch."""
        return {}

    def memory(self, shape: Shape, config: DictConfig, samples: int) -> dict[str, float | None]:
        """Bytes on each GPU while `samples` replies are written to each prompt by a model of `shape`, by what they are for.

        None for what is there and of unknown size, the default.
        """
        return {f"rollout {type(self).__name__}": None}

    def always(self, shape: Shape) -> dict[str, float]:
        """Bytes on each GPU that stay while the policy trains, by what they are for; default: nothing."""
        return {}

    def smaller(self) -> dict[str, Any]:
        """Values of fields with which it needs less memory, to be advised where a run does not fit."""
        return {}

    @classmethod
    def server_command(cls, rollout: DictConfig) -> list[str]:
        """What runs on each of `cluster.server_nodes`, with {python}, {run_dir} and {port} filled in; default: nothing.

        It is asked while the configuration is resolved: the values of `rollout` are yet to be checked.
        """
        return []

    @classmethod
    def servers_per_node(cls, rollout: DictConfig, gpus: Any) -> int:
        """How many of these commands run at once on a node with `gpus` GPUs; asked when `server_command` is."""
        return 1


def open_rollout(
    settings: RolloutSettings,
    config: DictConfig,
    engine: TrainedPolicy,
    tokenizer: Any,
    stop: Sequence[int],
    world: World,
) -> Rollout:
    """What `settings.open` gives.

    Raises:
        UserError: as `open` does, or if it gives no Rollout.
    """
    rollout = settings.open(config, engine, tokenizer, stop, world)
    if not isinstance(rollout, Rollout):
        raise UserError(
            f"rollout: {type(settings).__name__}.open returned {type(rollout).__name__}, which must derive from "
            "psychocounsel.rollout.base.Rollout"
        )
    return rollout


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
