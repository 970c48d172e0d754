"""Simulated clients: `Persona`, and `PersonaSet`, the base class of the config group `personas`. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from psychocounsel.asking.language_model import Ask
from psychocounsel.settings.targets import Contract, GroupSettings

# `Persona`: a simulated client. It knows its next turn, or asks a language model for it.


@dataclass(frozen=True)
class ClientTurn:
    """One turn of a client, with the action that a good reply would take.

    Attributes:
        text: the client's words.
        state: the script's state of this turn; None if a language model plays the client.
        expected_action: the action that is due after the client's words so far, one of ACTIONS, or DISCREET; None if unknown.
        disclosure: the clearest sign of the risk in these words, one of DISCLOSURES; None if unknown.
        ends: True if the session ends with the reply to this turn.
    """

    text: str
    state: str | None = None
    expected_action: str | None = None
    disclosure: str | None = None
    ends: bool = False


@dataclass(frozen=True)
class SessionExchange:
    """A turn of the client and the counsellor's reply; `reply` is "" if the counsellor gave no text."""

    client: ClientTurn
    reply: str


class Persona(Contract):
    """A simulated client. The same session so far always gives the same next turn.

    Attributes:
        id: hash of everything that defines the persona; tables have it in the column `speech`.
        name: name in tables and messages.
        pattern: course of the risk in the session (`escalating`, `retracted`, ...), or the name of a foreign set.
        kind: kind of risk, one of RISK_KINDS; "none" for a client without a risk; None if unknown.
    """

    id: str
    name: str
    pattern: str
    kind: str | None

    @abstractmethod
    def next(self, session: Sequence[SessionExchange], seed: int) -> ClientTurn | Ask | None:
        """Return the client's next turn, or the question to the client's language model; None if the client has left."""

    def read(self, text: str, session: Sequence[SessionExchange]) -> ClientTurn | None:
        """Return the client's turn from the model's answer to the Ask of `next`; None if the client has left.

        Default: the whole answer is the client's turn.

        Raises:
            ValueError: if the answer is not a client's turn.
        """
        if not text.strip():
            raise ValueError("the client says nothing")
        return ClientTurn(text.strip())


# Base class of the config group `personas`: the simulated clients of `evaluation=session`. Imports no torch.

BUILTIN = "builtin"  # value of the keys that name files of clients, for those that ship
NO_RISK = "none"  # the kind of a client without a risk


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
