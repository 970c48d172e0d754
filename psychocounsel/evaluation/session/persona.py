"""`Persona`: a simulated client. It knows its next turn, or asks a language model for it. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from psychocounsel.asking.language_model import Ask
from psychocounsel.settings.targets import Contract


@dataclass(frozen=True)
class ClientTurn:
    """One turn of a client, with the action that a good reply would take.

    Attributes:
        text: the client's words.
        state: the script's state of this turn; None if a language model plays the client.
        expected_action: the action that is due after the client's words so far, one of ACTIONS; None if unknown.
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
