"""Base classes of the simulated clients that sessions are held with (`rollout.clients`).

To add clients, derive a dataclass from ClientSettings and a class from SimulatedClients, or one class from both whose `open`
returns itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from psychocounsel.data.messages import Message
from psychocounsel.settings.targets import Contract, GroupSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig


class SimulatedClients(Contract):
    """Base of simulated clients. A subclass must define `answers`. Only rank 0 has one, for the sessions of all ranks."""

    @abstractmethod
    def answers(self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str | None]:
        """Return what the client says next in each conversation; None if the client has left.

        A conversation begins with a prompt of the data, without the system message, and ends with the policy's reply. The
        same conversation and seed must always give the same words, so that a resumed run repeats them.

        Raises:
            UserError: if a client cannot answer at all; the run ends.
        """


@dataclass
class ClientSettings(GroupSettings):
    """Base of the settings of simulated clients; each field is a key of `rollout.clients.*`. Imports no torch."""

    config_group: ClassVar[str] = "clients"

    asks: ClassVar[bool] = False  # True if a language model plays the clients

    @abstractmethod
    def open(self, config: DictConfig, answers: Path) -> SimulatedClients:
        """Return the clients of the run with the configuration `config`. Called on rank 0.

        A language model keeps what it says in the folder `answers`, within the limits of `config.budget`.

        Raises:
            UserError: if they cannot be opened.
        """

    def check(self, key: str, config: DictConfig) -> None:
        """Refuse settings that cannot work; `key` is their place, `config` the configuration of the run.

        Raises:
            UserError: naming the setting.
        """
