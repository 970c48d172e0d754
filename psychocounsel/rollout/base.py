"""Base classes of rollouts: `RolloutSettings` (a file of `conf/rollout/`) opens a `Rollout`, which writes replies.

To add a rollout, derive a dataclass from RolloutSettings and a class from Rollout. Other settings classes are rejected
before a run starts; other rollout classes are rejected when the rollout is opened.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from omegaconf import OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rollout.clients import ClientSettings
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import Contract, GroupSettings, build_section, wrong_return

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Completion, Group
    from psychocounsel.distributed.world import World
    from psychocounsel.model.packed import PackedModel
    from psychocounsel.model.shape import Shape


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters: `n` replies to each prompt, at most `max_tokens` tokens each and `max_length` with the prompt.

    `temperature` 0 takes the most likely token. `top_k` 0 and `top_p` 1 leave the distribution unchanged. Random
    numbers come from `seed`. `seeds`, if any, holds the seed of each prompt; it is used when several shards are joined.
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
        """Return the seed of the prompt at `place`, for rollouts that draw each prompt's replies from its own seed."""
        return self.seeds[place] if self.seeds else (self.seed + 1_000_003 * place) % (1 << 31)


Shard = tuple[list["Group"], Sampling]  # prompts and their sampling parameters


def sampling_of(config: DictConfig, samples: int, number: int, shard: int) -> Sampling:
    """Return the sampling parameters of a shard, from a run's settings; the seed depends on round `number` and `shard`."""
    import numpy as np

    rollout = config.rollout
    seed = int(np.random.SeedSequence([config.seed, number, shard]).generate_state(1)[0])
    limits = (samples, rollout.temperature, rollout.max_tokens, config.max_length, seed)
    return Sampling(*limits, rollout.top_p, rollout.top_k)


def together(shards: Sequence[Shard]) -> Shard:
    """Join several shards into one; each prompt keeps the seed of its own shard."""
    if len(shards) == 1:
        return shards[0]
    seeds = tuple(sampling.seed_of(place) for prompts, sampling in shards for place in range(len(prompts)))
    return [prompt for prompts, _ in shards for prompt in prompts], replace(shards[0][1], seeds=seeds)


class Arriving:
    """Shards whose prompts are answered one by one: the `prompts` of all shards with their joint `sampling`."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.prompts, self.sampling = together(shards)
        self._shard_of = [number for number, (prompts, _) in enumerate(shards) for _ in prompts]
        self._lacking = Counter(self._shard_of)
        self._answered: dict[int, Group] = {}

    def left(self) -> list[int]:
        """Return the places of prompts without replies."""
        return [place for place in range(len(self.prompts)) if place not in self._answered]

    def add(self, place: int, completions: list[Completion]) -> Iterator[tuple[int, list[Group]]]:
        """Take the replies to the prompt at `place`; if they complete a shard, yield its number and its prompts with replies."""
        self._answered[place] = replace(self.prompts[place], completions=completions)
        number = self._shard_of[place]
        self._lacking[number] -= 1
        if not self._lacking[number]:
            places = (other for other, of in enumerate(self._shard_of) if of == number)
            yield number, [self._answered[other] for other in places]


class TrainedPolicy(Protocol):
    """Part of the policy's engine that a rollout may use."""

    module: PackedModel
    dtype: torch.dtype


class Rollout(Contract):
    """Base of rollouts, which write replies. A subclass must define `sync` and `generate`.

    All ranks call `sync`, `generate`, `write` and `rest` together, each with its own groups.

    Attributes:
        rounds_ahead: number of future rounds that `write_alone` writes while a round is scored and trained on. Their
            weights are at most this many rounds old.
        draws_by_prompt: True if each prompt's replies depend on `Sampling.seed_of` alone, not on other prompts in the
            call. Shards may then be smaller if there are many ranks, and replies are the same for any number of ranks.
        writes_with_a_copy: True if `sync` transfers the policy's weights to another model, which writes the replies. Some
            replies of each round are then checked against the policy (`engine/rounds/held_out.py`).
    """

    rounds_ahead: int = 0
    draws_by_prompt: bool = False
    writes_with_a_copy: bool = False

    @abstractmethod
    def sync(self, version: int) -> None:
        """Use the policy's present weights, which have had `version` optimizer steps, from now on."""

    @abstractmethod
    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        """Return the prompts of `groups`, in order, with `n` new completions each; a rank may have no groups.

        A completion's `ids` end with the end-of-turn token if its `finish_reason` is "stop"; with "length" the reply
        was cut. `logprobs` belong to the distribution that the reply was drawn from. `policy_version` is the optimizer
        step of the weights. The function `completion` below builds a completion from tokens.
        """

    def write(self, shards: Sequence[Shard], alive: Callable[[], None]) -> Iterator[tuple[int, list[Group]]]:
        """Yield the number of each shard that has prompts, and the result of `generate` for it, as soon as it is complete.

        All ranks give the same number of shards; some may have no prompts. They call `alive` together, often; it may
        raise Stopped. By default `generate` writes one shard after another. Override it if the replies to a prompt depend
        on their seed alone: with all prompts at once, a long reply delays no other prompt.
        """
        for number, shard in enumerate(shards):
            alive()
            groups = self.generate(*shard)
            if not _answers(groups, *shard):
                wanted = f"its {len(shard[0])} Groups, each with {shard[1].n} completions"
                raise wrong_return(self, "generate", groups, wanted)
            if groups:
                yield number, groups

    def write_alone(self, shards: Sequence[Shard], ends: Callable[[], bool]) -> Iterator[tuple[int, list[Group]]]:
        """Like `write`, on this rank alone and from any thread. Called only if `rounds_ahead` is above 0.

        Once `ends()` is true, no further prompts are begun. Shards that are not written, by default all, are written when
        their round begins.
        """
        return iter(())

    def rest(self) -> None:
        """Release resources that only writing needs, until the next `sync`. Default: nothing to release."""


def _answers(groups: Any, prompts: Sequence[Group], sampling: Sampling) -> bool:
    """Return True if `groups` are the `prompts`, each with its completions."""
    from psychocounsel.data.group import Group

    return (
        isinstance(groups, list)
        and all(isinstance(group, Group) and len(group.completions) == sampling.n for group in groups)
        and [group.id for group in groups] == [prompt.id for prompt in prompts]
    )


@dataclass
class RolloutSettings(GroupSettings):
    """Base of the settings of rollouts; each field is a key of `rollout.*`. A subclass must define `open`.

    Its module must import torch inside functions only, because settings are checked on login nodes without torch.
    Training divides logits by the same `temperature`, so its log-probabilities belong to the distribution that replies
    are drawn from.
    """

    config_group: ClassVar[str] = "rollout"
    shares_gpus: ClassVar[bool] = True  # True if replies are written on the training GPUs
    # True if `sync` copies the policy's weights, so that they are not read until the next `sync`.
    copies_weights: ClassVar[bool] = False
    # True if another engine than the trainer computes the log-probabilities, which then differ a little.
    other_engine: ClassVar[bool] = False

    temperature: float = option(1.0, above=0)
    max_tokens: int = option(512, at_least=1)
    top_p: float = option(1.0, above=0, at_most=1)
    top_k: int = option(0, at_least=0)
    shard_prompts: int = option(16, at_least=1)
    shown_prompts: int = option(4, at_least=0)
    offload_idle: bool = False
    clients: dict[str, Any] = option({})
    turns: int = option(6, at_least=2)
    session_reward: str = option("mean", choices=("mean", "last", "min"))

    @abstractmethod
    def open(
        self, config: DictConfig, engine: TrainedPolicy, tokenizer: Any, stop: Sequence[int], world: World
    ) -> Rollout:
        """Return a rollout with the weights of `engine`; `stop` holds the ids of tokens that end a reply.

        All ranks call it together.

        Raises:
            UserError: if the rollout cannot be opened with these settings.
        """

    def check(self, config: DictConfig, processes: int) -> None:
        """Reject settings that this rollout cannot work with.

        Raises:
            UserError: naming the setting.
        """

    def check_clients(self, config: DictConfig) -> None:
        """Reject simulated clients that cannot work.

        Raises:
            UserError: naming the setting.
        """
        if not self.clients:
            return
        if config.rollout.get("max_staleness"):
            raise UserError(
                f"rollout.clients and rollout.max_staleness={config.rollout.max_staleness}: sessions are not written ahead; use "
                "rollout.max_staleness=0"
            )
        self.simulated().check("rollout.clients", config)

    def simulated(self) -> ClientSettings:
        """Return the settings of the simulated clients in `clients`."""
        clients: ClientSettings = build_section(OmegaConf.create(self.clients), "clients")
        return clients

    def longest_reply(self, config: DictConfig) -> int:
        """Return the largest number of tokens after a prompt: `max_tokens`, or all of `max_length` in sessions."""
        return self.max_tokens if not self.clients else int(config.max_length)

    def lacking(self) -> str:
        """Return a message that names missing packages and how to install them; empty (default) if none is missing.

        It must not import torch.
        """
        return ""

    def unused(self, config: DictConfig) -> dict[str, str]:
        """Return fields that have no effect with these settings, each with the reason. It must not import torch.

        Setting such a field is an error. A subclass adds its own to these.
        """
        alone = dict.fromkeys(("turns", "session_reward"), "without rollout.clients the policy writes single replies")
        return alone if not self.clients else {}

    def memory(self, shape: Shape, config: DictConfig, samples: int) -> dict[str, float | None]:
        """Return the bytes on each GPU, by purpose, while a model of `shape` writes `samples` replies to each prompt.

        None means an unknown size, the default.
        """
        return {f"rollout {type(self).__name__}": None}

    def always(self, shape: Shape) -> dict[str, float]:
        """Return the bytes on each GPU, by purpose, that remain allocated while the policy trains; default: none."""
        return {}

    def on_host(self, shape: Shape, config: DictConfig) -> dict[str, float]:
        """Return the bytes of host memory of each process on GPU, by purpose; default: none."""
        return {}

    def smaller(self) -> dict[str, Any]:
        """Return values of fields that need less memory, as advice for a run that does not fit."""
        return {}

    @classmethod
    def server_command(cls, rollout: DictConfig) -> list[str]:
        """Return the command to run on each of `cluster.server_nodes`; default: none.

        {python}, {run_dir} and {port} in it are replaced. Called while the configuration is resolved, before the
        values of `rollout` are checked.
        """
        return []

    @classmethod
    def servers_per_node(cls, rollout: DictConfig, gpus: Any) -> int:
        """Return how many server commands to run on a node with `gpus` GPUs; called together with `server_command`."""
        return 1


def training_temperature(config: DictConfig) -> float:
    """Return the temperature of the policy's log-probabilities: `rollout.temperature`, or 1 without rollouts."""
    return float(config.rollout.temperature) if config.get("rollout") is not None else 1.0


def completion(
    ids: list[int], logprobs: list[float], tokenizer: Any, stop: Sequence[int], version: int, engine: str | None = None
) -> Completion:
    """Return a completion of tokens `ids`, written by `engine`; its last token is one of `stop`, or the reply was cut."""
    import numpy as np

    from psychocounsel.data.group import Completion

    ended = ids[-1] in stop
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    arrays = np.array(ids, np.int32), text, np.array(logprobs, np.float32)
    finish_reason, engines = "stop" if ended else "length", None if engine is None else [engine]
    return Completion(*arrays, finish_reason=finish_reason, policy_version=version, engines=engines)
