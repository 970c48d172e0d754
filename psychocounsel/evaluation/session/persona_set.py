"""The contract of the group `personas`: which simulated clients `evaluation=session` talks with. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from psychocounsel.evaluation.session.persona import Persona
from psychocounsel.settings.contract import GroupSettings


@dataclass(kw_only=True)
class PersonaSet(GroupSettings):
    """Simulated clients. A YAML file of `conf/personas` names a subclass, whose fields are the keys of `personas.*`.

    Attributes:
        asks_client: the model of the group `client` says what its personas say; False of scripts.
        follows_checks: what a client says next depends on `check_reply` of the last reply, so every output shows how often the
            checks are wrong.
    """

    config_group: ClassVar[str] = "personas"
    asks_client: ClassVar[bool] = False
    follows_checks: ClassVar[bool] = False

    name: str = MISSING

    @abstractmethod
    def personas(self) -> list[Persona]:
        """All clients of the set, no two with one id.

        Raises:
            UserError: listing what is wrong with the files that they are read from.
        """

    @abstractmethod
    def notes(self) -> list[str]:
        """What every output says of these clients: who wrote them, and who has reviewed them. A line each."""

    def check(self, key: str) -> None:
        """Raises UserError for settings or files that cannot work; `key` is where the settings stand. Default: reads all."""
        self.personas()
