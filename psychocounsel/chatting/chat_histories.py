"""A conversation as a list of turns: a message of the user's, and the reply of each model to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from psychocounsel.asking.language_model import Ask
from psychocounsel.chatting.remarks import Remarks
from psychocounsel.data.rows import Message
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.errors import UserError

_AGAIN = 1_000_003  # between the seeds of a reply and of the one that /again asks for


@dataclass(frozen=True)
class ChatReply:
    """What a model replied.

    Attributes:
        outcome: as in Answer; `stopped` where the user ended it.
        seed: that it was drawn with.
    """

    text: str
    outcome: str
    seed: int
    remarks: Remarks


@dataclass
class ChatTurn:
    """A message, the system prompt that it was sent with, and its replies by model, of each attempt; the last attempt counts."""

    message: str
    system_prompt: str | None
    attempts: list[dict[str, ChatReply]] = field(default_factory=lambda: [{}])

    @property
    def replies(self) -> dict[str, ChatReply]:
        return self.attempts[-1]


class ChatHistories:
    """What was said so far; each model sees its own replies alone. `seed` is that of the first reply."""

    def __init__(self, system_prompt: str | None, seed: int) -> None:
        self.system_prompt, self.seed = system_prompt, seed
        self.turns: list[ChatTurn] = []

    def add(self, message: str) -> None:
        """Begin a turn."""
        self.turns.append(ChatTurn(message, self.system_prompt))

    def again(self) -> None:
        """Begin another attempt at the last turn, with the system prompt as it is now.

        Raises:
            UserError: if there is none.
        """
        if not self.turns:
            raise UserError("/again: there is no reply yet; write a message first")
        self.turns[-1].attempts.append({})
        self.turns[-1].system_prompt = self.system_prompt

    def undo(self) -> str:
        """Take back the last attempt, or with the first one its turn; returns what was taken back, for a message.

        Raises:
            UserError: if there is nothing to take back.
        """
        if not self.turns:
            raise UserError("/undo: there is nothing to take back")
        if len(self.turns[-1].attempts) > 1:
            self.turns[-1].attempts.pop()
            return "the last /again; the reply before it counts"
        self.turns.pop()
        return "your last message and the reply to it"

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""
        self.turns.clear()

    def seed_now(self) -> int:
        """The seed of the replies that are due: `seed` and the turn's number, another one for each attempt."""
        attempt = len(self.turns[-1].attempts) - 1
        return (self.seed + len(self.turns) - 1 + _AGAIN * attempt) % (1 << 32)

    def history(self, model: str) -> list[Message]:
        """What `model` has heard and said before the last turn: turns without a reply of its own are left out."""
        answered = [turn for turn in self.turns[:-1] if model in turn.replies and turn.replies[model].text]
        pairs = [
            ({"role": "user", "content": turn.message}, {"role": "assistant", "content": turn.replies[model].text})
            for turn in answered
        ]
        return [message for pair in pairs for message in pair]

    def ask(self, model: str, left_out: int) -> Ask:
        """What `model` is asked now, without the oldest `left_out` turns of its history."""
        last = self.turns[-1]
        messages = [*self.history(model)[2 * left_out :], {"role": "user", "content": last.message}]
        return Ask("chat", tuple(with_system_prompt(messages, last.system_prompt)), self.seed_now(), "reply")
