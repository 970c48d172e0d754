"""The contract of rewards: settings, which `conf/reward/` can name, open a Scorer, which scores conversations.

A reward of a user's own is a dataclass that derives from RewardSettings and a class that derives from Scorer (or one
that derives from both, whose `open` returns itself). What derives from neither is refused before a run starts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from psychocounsel.data.rows import Message
from psychocounsel.settings.contract import Contract, GroupSettings, refuse_another_kind

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

Conversation = Sequence[Message]  # ends with the reply that is scored, of role assistant


class Scorer(Contract):
    """Scores conversations, wherever its model runs. A subclass must define `score`.

    Attributes:
        models: the frozen modules (torch.nn.Module) that `score` computes with in this process. With
            `rollout.offload_idle` they are on the GPU only while it runs.
        parts: of a scorer that is made of several, by the name of each: the rewards, float32[n], that it gave in the
            last `score`. Their means are logged as `reward_<name>`.
    """

    models: Sequence[Any] = ()
    parts: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """float32[n]: the reward of the last message of each conversation, in order.

        `progress` may wrap the loop over parts of them, to show how far it is.

        Raises:
            UserError: for a conversation that does not end with a reply, or that the model cannot read whole.
        """

    def unnormalised(self, rewards: np.ndarray) -> np.ndarray:
        """float[...]: on the model's own scale, rewards that `score` has returned. Default: they are on it already."""
        return rewards


@dataclass
class RewardSettings(GroupSettings):
    """The settings of a reward: each field is a key of `reward.*`. A subclass must define `open`. Imports no torch.

    Attributes:
        path_is: what the field `path`, if there is one, names. "loaded": a reward model whose weights each process
            loads, and as which a critic can begin. "served": the model that a server runs, of which its tokenizer and
            config.json are read here. "nothing" (default): no model.
        several: whether the field `members` holds the settings of other rewards.
    """

    config_group: ClassVar[str] = "reward"
    path_is: ClassVar[str] = "nothing"
    several: ClassVar[bool] = False

    name: str = MISSING

    @abstractmethod
    def open(self, device: torch.device) -> Scorer:
        """Make the scorer, with its models on `device`, in each process.

        Raises:
            UserError: if the model cannot be loaded, or the server does not answer.
        """

    def check(self, key: str) -> None:
        """Raises UserError for settings that cannot work; `key` is where they stand, as `reward` or `reward.members[0]`."""

    def memory(self, config: DictConfig, key: str) -> dict[str, float | None]:
        """Bytes on each GPU by what they are for; None for what is there and of unknown size, the default."""
        return {f"reward {self.name}": None}


def open_scorer(settings: RewardSettings, device: torch.device) -> Scorer:
    """What `settings.open` gives.

    Raises:
        UserError: as `open` does, or if it gives no Scorer.
    """
    scorer = settings.open(device)
    refuse_another_kind(scorer, Scorer, f"reward={settings.name}: open")
    return scorer
