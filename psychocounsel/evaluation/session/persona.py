"""`Persona` is a simulated client: it says its next words, or asks a language model for them. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from psychocounsel.asking.language_model import Ask
from psychocounsel.settings.contract import Contract


@dataclass(frozen=True)
class ClientTurn:
    """What a client says, and what a reply to it is held against.

    Attributes:
        state: of a script, the state that says it; None where a language model plays the client.
        expected_action: one of ACTIONS, the action that is due after all that the client has said so far; None: not known.
        disclosure: one of DISCLOSURES, the clearest sign of the risk in these words; None: not known.
        ends: the session ends with the reply to this turn.
    """

    text: str
    state: str | None = None
    expected_action: str | None = None
    disclosure: str | None = None
    ends: bool = False


@dataclass(frozen=True)
class SessionExchange:
    """A turn of the client, and the counsellor's reply; `reply` is "" where the counsellor gave no text."""

    client: ClientTurn
    reply: str


class Persona(Contract):
    """A simulated client. The same session so far gives the same next turn.

    Attributes:
        id: hash of all that makes the persona; the column `speech` of tables.
        name: as tables and messages call it.
        pattern: how the risk shows in the session (`escalating`, `retracted`, ...); of a foreign set, the set's name.
        kind: one of RISK_KINDS; "none" of a client without a risk; None: not known.
    """

    id: str
    name: str
    pattern: str
    kind: str | None

    @abstractmethod
    def next(self, session: Sequence[SessionExchange], seed: int) -> ClientTurn | Ask | None:
        """The client's next turn, or what the client's language model is asked for it; None: the client has left."""

    def read(self, text: str, session: Sequence[SessionExchange]) -> ClientTurn | None:
        """The turn in the answer to the Ask that `next` gave; None: the client has left. Default: the whole answer is said.

        Raises:
            ValueError: for an answer that is no turn of a client.
        """
        if not text.strip():
            raise ValueError("the client says nothing")
        return ClientTurn(text.strip())
