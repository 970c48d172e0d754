"""Base class of the config group `personas`: the simulated clients of `evaluation=session`. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from psychocounsel.evaluation.session.persona import Persona
from psychocounsel.settings.targets import GroupSettings


@dataclass(kw_only=True)
class PersonaSet(GroupSettings):
    """A set of simulated clients. A YAML file in `conf/personas` names a subclass; its fields are the keys of `personas.*`.

    Attributes:
        asks_client: True if the model of the group `client` writes the clients' words; False for scripts.
        follows_checks: True if a client's next turn depends on `check_reply` of the last reply. Every output then shows the
            error rates of these checks.
    """

    config_group: ClassVar[str] = "personas"
    asks_client: ClassVar[bool] = False
    follows_checks: ClassVar[bool] = False

    name: str = MISSING

    @abstractmethod
    def personas(self) -> list[Persona]:
        """Return all clients of the set, with unique ids.

        Raises:
            UserError: if the files of the set are wrong; the message lists all problems.
        """

    @abstractmethod
    def notes(self) -> list[str]:
        """Return lines about the clients that every output shows: who wrote them, and who has reviewed them."""

    def check(self, key: str) -> None:
        """Raise UserError if settings or files are wrong; `key` is the settings' place in the configuration.

        Default: read all clients.
        """
        self.personas()
