"""A session between a simulated client and a contestant, and several sessions at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import pyarrow as pa

from psychocounsel.asking.answers import Answers, Outcome, Read, answer_key
from psychocounsel.asking.language_model import CUT, EMPTY, FAILED, FILTERED, REFUSED, TEXT, Ask, LanguageModel
from psychocounsel.data.messages import Message
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.evaluation.contestants.replies_step import prompt_version, reply_columns
from psychocounsel.evaluation.contestants.settings import Contestant
from psychocounsel.evaluation.session.personas import ClientTurn, Persona, SessionExchange
from psychocounsel.steps.tables import Row
from psychocounsel.storage.text_hashes import seed_of

# Concurrent sessions: a call needs the answer to the call before; calls of several sessions overlap.

Call = tuple[LanguageModel, Ask]


class Waiter(Protocol):
    """A chain of calls in which each call depends on earlier answers: a session, or a judge's path through questions.

    Attributes:
        call: the next call; None if the chain is over.
    """

    call: Call | None

    def take(self, outcome: Outcome[Any]) -> None:
        """Continue with the answer to `call`."""


class SideBySide:
    """The calls of concurrent sessions, in the form that `ask_all` takes. Equal calls of several sessions are made once."""

    def __init__(self, conversations: Iterable[Waiter]) -> None:
        self._ready = deque[Call]()
        self._waiting = dict[str, list[Waiter]]()
        for conversation in conversations:
            self._wait(conversation)

    def calls(self) -> Iterator[Call | None]:
        """Yield the calls that are ready; None while all sessions wait for answers."""
        while self._waiting:
            yield self._ready.popleft() if self._ready else None

    def take(self, model: LanguageModel, ask: Ask, outcome: Outcome[Any]) -> None:
        """Pass an answer to all sessions that wait for it."""
        for conversation in self._waiting.pop(answer_key(model, ask, 0)):
            conversation.take(outcome)
            self._wait(conversation)

    def _wait(self, conversation: Waiter) -> None:
        if conversation.call is None:
            return
        key = answer_key(*conversation.call, 0)
        if key not in self._waiting:
            self._ready.append(conversation.call)
        self._waiting.setdefault(key, []).append(conversation)


def replay(conversation: Waiter, answers: Answers, retries: int, read: Read[Any] = str) -> int:
    """Advance a session with the journal's answers, parsed by `read`, up to its first call without an answer.

    Returns the number of answered calls.
    """
    count = 0
    while conversation.call is not None:
        settled = answers.settled(*conversation.call, read, retries)
        if not isinstance(settled, Outcome):
            break
        conversation.take(settled)
        count += 1
    return count


# A session between a simulated client and a contestant: the next call to a model, and the table rows of the session.

SCHEMA = pa.schema(
    [
        pa.field("speech", pa.string(), nullable=False),
        pa.field("persona", pa.string(), nullable=False),
        pa.field("pattern", pa.string(), nullable=False),
        pa.field("kind", pa.string()),
        pa.field("setting", pa.string(), nullable=False),
        pa.field("contestant", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("turn", pa.int64(), nullable=False),
        pa.field("client", pa.string()),
        pa.field("state", pa.string()),
        pa.field("expected_action", pa.string()),
        pa.field("disclosure", pa.string()),
        pa.field("ends", pa.bool_(), nullable=False),
        pa.field("reply", pa.string()),
        pa.field("text", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("prompt_version", pa.string()),
    ]
)
_GO_ON = (TEXT, CUT, EMPTY, REFUSED, FILTERED)  # outcomes of replies after which the session continues


@dataclass(frozen=True)
class SessionPlan:
    """Settings of one session.

    Attributes:
        persona: the simulated client.
        contestant: the counsellor.
        sample: number of the session among the sessions of this persona and contestant.
        client: the language model that writes the client's words; None if the persona needs no model.
        system_prompt: the contestant's system prompt; None for no prompt.
        turns: largest number of replies by the counsellor.
        seed: seed of the random numbers, which are the same for every contestant.
    """

    persona: Persona
    contestant: Contestant
    sample: int
    client: LanguageModel | None
    system_prompt: str | None
    turns: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class ClientAsk(Ask):
    """A call to the client's model. If the persona cannot read the answer, the call is repeated."""

    persona: Persona
    session: tuple[SessionExchange, ...]

    def check_value(self, value: str) -> None:
        self.persona.read(value, self.session)


class Conversation:
    """A running session, which advances with every answer of a model. The same answers give the same session.

    Attributes:
        call: the next call to a model; None if the session is over.
        rows: rows of session_turns.parquet for the replies so far. In a complete session the last row has `ends` set to
            True. A session that broke off because of a missing answer has no such row.
    """

    def __init__(self, plan: SessionPlan) -> None:
        self.plan, self.session = plan, list[SessionExchange]()
        self.call: Call | None = None
        self.rows = list[Row]()
        self._turn: ClientTurn | None = None
        self._go_on()

    @property
    def messages(self) -> list[Message]:
        """The messages so far. The last one is the client's, unless the session is over."""
        texts = [(exchange.client.text, exchange.reply) for exchange in self.session]
        messages = [message for client, reply in texts for message in (_client(client), _counsellor(reply))]
        return [*messages, _client(self._turn.text)] if self._turn is not None else messages

    def take(self, outcome: Outcome[str] | None) -> None:
        """Continue the session with the answer to `call`; None means that no answer has arrived: the session breaks off."""
        assert self.call is not None
        turn, (_, ask) = self._turn, self.call
        self.call = None
        if turn is None:
            self._hear(outcome)
            return
        row = self._row(turn) | {"prompt_version": prompt_version(ask)}
        row |= reply_columns(outcome) if outcome is not None else {"outcome": FAILED}
        self.rows.append(row)
        self._turn = None
        if row["outcome"] in _GO_ON:
            self.session.append(SessionExchange(turn, row["text"] or ""))
            self._go_on()

    def _go_on(self) -> None:
        """Start the client's next turn, unless the session is over."""
        plan = self.plan
        is_over = len(self.session) == plan.turns or (bool(self.session) and self.session[-1].client.ends)
        turn_or_ask = None if is_over else plan.persona.next(tuple(self.session), _number(plan, "client"))
        if not isinstance(turn_or_ask, Ask):
            self._say(turn_or_ask)
            return
        assert plan.client is not None, "a persona asks a model, but its set declares asks_client = False"
        part = f"client seed {plan.seed} session {plan.sample} turn {len(self.session)} {turn_or_ask.part}"
        self.call = (
            plan.client,
            ClientAsk(**{**vars(turn_or_ask), "part": part}, persona=plan.persona, session=tuple(self.session)),
        )

    def _hear(self, outcome: Outcome[str] | None) -> None:
        """Use the answer of the client's model as the next turn; without a text, the session breaks off."""
        if outcome is None or outcome.value is None:
            self.rows.append(self._row(None) | {"outcome": FAILED if outcome is None else outcome.outcome})
            return
        self._say(self.plan.persona.read(outcome.value, tuple(self.session)))

    def _say(self, turn: ClientTurn | None) -> None:
        """Ask the contestant for a reply to the client's turn; None means that the client has left."""
        self._turn = turn
        if turn is None:
            if self.rows:
                self.rows[-1]["ends"] = True
            return
        plan = self.plan
        messages = with_system_prompt(self.messages, plan.system_prompt)
        part = f"seed {plan.seed} session {plan.sample} turn {len(self.session)}"
        ask = Ask(plan.persona.id, tuple(messages), _number(plan, str(len(self.session))), part)
        self.call = plan.contestant.model, ask

    def _row(self, turn: ClientTurn | None) -> Row:
        plan, persona = self.plan, self.plan.persona
        row: Row = dict.fromkeys(SCHEMA.names)
        row |= {"speech": persona.id, "persona": persona.name, "pattern": persona.pattern, "kind": persona.kind}
        row |= {"setting": plan.contestant.setting, "contestant": plan.contestant.model.name}
        row |= {"seed": plan.contestant.seed, "sample": plan.sample, "turn": len(self.session), "ends": False}
        if turn is not None:
            row |= {"client": turn.text, "state": turn.state}
            row |= {"expected_action": turn.expected_action, "disclosure": turn.disclosure}
        return row


SESSION = ("setting", "seed", "sample")  # columns that identify a session, together with `speech`


def session_of(row: Row) -> tuple[object, ...]:
    """Return the values of the columns SESSION."""
    return tuple(row[name] for name in SESSION)


def sessions_in(turns: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the turns of each session with one client, as rows of session_turns.parquet; `turns` has the table's order."""
    for _, rows in groupby(turns, session_of):
        yield list(rows)


def whole_conversation(rows: Sequence[Row]) -> list[Message]:
    """Return all messages of a session from its rows of session_turns.parquet; the last one is the counsellor's."""
    return [message for row in rows for message in (_client(row["client"] or ""), _counsellor(row["text"] or ""))]


def messages_of(rows: Sequence[Row]) -> Iterator[tuple[list[Message], Row]]:
    """Yield each reply of a session with the conversation before it, which ends with the client's turn.

    `rows` are the session's rows of session_turns.parquet.
    """
    conversation = list[Message]()
    for row in rows:
        conversation = [*conversation, _client(row["client"] or "")]
        yield conversation, row
        conversation = [*conversation, _counsellor(row["text"] or "")]


def _client(text: str) -> Message:
    return {"role": "user", "content": text}


def _counsellor(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _number(plan: SessionPlan, label: str) -> int:
    """Return a random seed that does not depend on the contestant."""
    return seed_of(plan.seed, plan.persona.id, plan.sample, label)
