"""Saves a conversation as JSON lines or Markdown, readable only by the owner. It is written only if asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.chatting.chat_histories import ChatReply, ChatTurn
from psychocounsel.errors import UserError
from psychocounsel.storage.files import write_atomically, write_new

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
        return "\n".join(line for turn in turns for line in _markdown(turn))
    return "".join(json.dumps(_row(turn), ensure_ascii=False) + "\n" for turn in turns)


def _row(turn: ChatTurn) -> dict[str, Any]:
    replies = [{"model": name, **_reply(reply)} for name, reply in turn.replies.items()]
    return {"system_prompt": turn.system_prompt, "message": turn.message, "replies": replies}


def _reply(reply: ChatReply) -> dict[str, Any]:
    remarks = reply.remarks
    return {
        "text": reply.text,
        "outcome": reply.outcome,
        "seed": reply.seed,
        "reward": {name: None if math.isnan(score) else score for name, score in remarks.reward.items()},
        "ratings": {name: ratings and {**ratings} for name, ratings in remarks.ratings.items()},
        "checks": [{"finding": each.finding, "words": each.words} for each in remarks.checks],
    }


def _markdown(turn: ChatTurn) -> Iterator[str]:
    yield from ("## you", "", turn.message, "")
    for name, reply in turn.replies.items():
        yield from (f"## {name}", "", reply.text or f"({reply.outcome})", "")
        lines = [f"- {line}" for line in reply.remarks.lines()]
        yield from ([*lines, ""] if lines else [])
