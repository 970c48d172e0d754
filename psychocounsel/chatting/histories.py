"""Turns of a conversation, and the transcript that is saved if asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.asking.language_model import Ask
from psychocounsel.chatting.raters import Remarks
from psychocounsel.data.messages import Message
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.errors import UserError
from psychocounsel.storage.files import write_atomically, write_new

# Turns: the user's message and the reply of each model

_AGAIN_SEED = 1_000_003  # difference between the seeds of a reply and of the next /again


@dataclass(frozen=True)
class ChatReply:
    """A model's reply.

    Attributes:
        outcome: an outcome of Answer, or `stopped` if the user ended the reply.
        seed: the random seed of the reply.
    """

    text: str
    outcome: str
    seed: int
    remarks: Remarks


@dataclass
class ChatAttempt:
    """An attempt at a turn: the system prompt, and the replies to it by model."""

    system_prompt: str | None
    replies: dict[str, ChatReply] = field(default_factory=dict)


@dataclass
class ChatTurn:
    """A message and the attempts to reply to it. Only the last attempt counts.

    `conversation`: number of the conversation that the turn belongs to, from 1; /new begins another one.
    """

    message: str
    conversation: int
    attempts: list[ChatAttempt]

    @property
    def system_prompt(self) -> str | None:
        return self.attempts[-1].system_prompt

    @property
    def replies(self) -> dict[str, ChatReply]:
        return self.attempts[-1].replies


class ChatHistories:
    """The conversation so far; each model sees only its own replies. `seed` is the seed of the first reply.

    `ended`: the turns of the conversations before, for the transcript.
    """

    def __init__(self, system_prompt: str | None, seed: int) -> None:
        self.system_prompt, self.seed, self.number = system_prompt, seed, 1
        self.turns: list[ChatTurn] = []
        self.ended: list[ChatTurn] = []

    def add(self, message: str) -> None:
        """Start a turn with a message."""
        self.turns.append(ChatTurn(message, self.number, [ChatAttempt(self.system_prompt)]))

    def again(self) -> None:
        """Start another attempt at the last turn, with the current system prompt.

        Raises:
            UserError: if there is no turn yet.
        """
        if not self.turns:
            raise UserError("/again: there is no reply yet; write a message first")
        self.turns[-1].attempts.append(ChatAttempt(self.system_prompt))

    def undo(self) -> str:
        """Remove the last attempt, or the whole turn if it has only one attempt; returns a description of what was removed.

        Raises:
            UserError: if there is nothing to remove.
        """
        if not self.turns:
            raise UserError("/undo: there is nothing to undo")
        if len(self.turns[-1].attempts) > 1:
            self.turns[-1].attempts.pop()
            return "the last /again; the earlier reply counts again"
        self.turns.pop()
        return "your last message and its reply"

    def clear(self) -> None:
        """Begin another conversation; the system prompt stays."""
        self.ended, self.turns, self.number = self.ended + self.turns, [], self.number + 1

    def seed_now(self) -> int:
        """Return the seed of the next replies. It depends on `seed`, the turn's number and the attempt."""
        attempt = len(self.turns[-1].attempts) - 1
        return (self.seed + len(self.turns) - 1 + _AGAIN_SEED * attempt) % (1 << 32)

    def history(self, model: str) -> list[Message]:
        """Return the messages before the last turn as `model` sees them; turns without a reply from it are skipped."""
        answered = [turn for turn in self.turns[:-1] if model in turn.replies and turn.replies[model].text]
        pairs = [
            ({"role": "user", "content": turn.message}, {"role": "assistant", "content": turn.replies[model].text})
            for turn in answered
        ]
        return [message for pair in pairs for message in pair]

    def ask(self, model: str, left_out: int) -> Ask:
        """Return the Ask for `model` in the last turn, without the oldest `left_out` turns of its history."""
        last = self.turns[-1]
        messages = [*self.history(model)[2 * left_out :], {"role": "user", "content": last.message}]
        return Ask("chat", tuple(with_system_prompt(messages, last.system_prompt)), self.seed_now(), "reply")


# Transcript as JSON lines or Markdown, readable only by the owner

_MODE = 0o600


class ChatTranscript:
    """A new file that is rewritten after each reply."""

    def __init__(self, path: Path) -> None:
        self.path, self._begun = path, False

    def write(self, turns: Sequence[ChatTurn]) -> None:
        """Replace the contents of the file with `turns`.

        Raises:
            UserError: if the file existed before the first call.
        """
        if self._begun:
            write_atomically(self.path, _content(self.path, turns), mode=_MODE)
        else:
            save(self.path, turns)
        self._begun = True


def save(path: Path, turns: Sequence[ChatTurn]) -> None:
    """Write `turns` to a new file.

    Raises:
        UserError: if the file exists.
    """
    try:
        write_new(path, _content(path, turns), _MODE)
    except FileExistsError as error:
        raise UserError(f"{path}: exists, and files are never overwritten; give another name") from error


def _content(path: Path, turns: Sequence[ChatTurn]) -> str:
    if path.suffix.lower() == ".md":
        pairs = zip([None, *turns], turns, strict=False)
        return "\n".join(line for before, turn in pairs for line in _markdown(turn, before))
    return "".join(json.dumps(_turn_row(turn), ensure_ascii=False) + "\n" for turn in turns)


def _turn_row(turn: ChatTurn) -> dict[str, Any]:
    replies = [{"model": name, **_reply_row(reply)} for name, reply in turn.replies.items()]
    about = {"conversation": turn.conversation, "system_prompt": turn.system_prompt}
    return {**about, "message": turn.message, "replies": replies}


def _reply_row(reply: ChatReply) -> dict[str, Any]:
    remarks = reply.remarks
    return {
        "text": reply.text,
        "outcome": reply.outcome,
        "seed": reply.seed,
        "reward": {name: None if math.isnan(score) else score for name, score in remarks.reward.items()},
        "ratings": {name: ratings and {**ratings} for name, ratings in remarks.ratings.items()},
        "checks": [{"finding": check.finding, "words": check.words} for check in remarks.checks],
    }


def _markdown(turn: ChatTurn, before: ChatTurn | None) -> Iterator[str]:
    if before and before.conversation != turn.conversation:
        yield from (f"# conversation {turn.conversation}", "")
    yield from ("## you", "", turn.message, "")
    for name, reply in turn.replies.items():
        yield from (f"## {name}", "", reply.text or f"({reply.outcome})", "")
        lines = [f"- {line}" for line in reply.remarks.lines()]
        yield from ([*lines, ""] if lines else [])
