"""A file of replies in the place of a model: what another program, or a person, wrote to the same speeches."""

from __future__ import annotations

import re
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.asking.language_model import FAILED, TEXT, Answer, Answerer, Ask, LanguageModel
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.errors import UserError
from psychocounsel.storage.hashes import mark_of

_REPLIES = ("reply", "response", "completion", "answer", "output")
_PROMPTS = ("prompt", "question", "speech", "messages")
_NUMBER = re.compile(r"\d+$")


@dataclass(kw_only=True)
class ReplyFile(LanguageModel):
    """Replies of the file `model`: JSONL, JSON, CSV, TSV or parquet with the columns `prompt` and `reply`.

    Several rows of one prompt are its samples, in their order. A prompt is found by its words, whatever its spacing.
    """

    def open(self, key: str) -> Answerer:
        return _Reading(self, key)

    def check(self, key: str) -> None:
        """Refuse a missing file."""
        if not self.model or not Path(self.model).is_file():
            raise UserError(f"{key}: {self.model}: no such file of replies")

    def identity(self) -> dict[str, Any]:
        """With the file's content: another file of the same name gives other answers."""
        return {"kind": "ReplyFile", "name": self.name, "content": self.content()}

    def content(self) -> str | None:
        """Hash of the file; None where it is gone."""
        file = Path(str(self.model))
        return mark_of(file)["sha256"] if file.is_file() else None


class _Reading(Answerer):
    slots = 256

    def __init__(self, settings: ReplyFile, key: str) -> None:
        self.name = settings.name
        self.replies = replies_of(Path(str(settings.model)), key)

    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        found: Future[Answer] = Future()
        replies = self.replies.get(normalised(ask.messages), [])
        digits = _NUMBER.search(ask.part)
        number = int(digits[0]) if digits else 0
        has_one = number < len(replies)
        found.set_result(Answer(TEXT, replies[number], self.name) if has_one else Answer(FAILED))
        return found


def replies_of(file: Path, key: str) -> dict[str, list[str]]:
    """The replies of a file to each normalised prompt; `key` is what messages call the file.

    Raises:
        UserError: if the file cannot be read, or lacks a column.
    """
    from psychocounsel.data.sources import StandardSource, read_rows

    found: dict[str, list[str]] = {}
    for where, row in read_rows(StandardSource(), str(file), "train", None):
        if isinstance(row, UserError):
            raise row
        prompt = next((row[name] for name in _PROMPTS if row.get(name)), None)
        reply = next((row[name] for name in _REPLIES if row.get(name) is not None), None)
        if prompt is None or not isinstance(reply, str):
            raise UserError(
                f"{key}: {where}: lacks a prompt or a reply; the columns are {_PROMPTS[0]} and {_REPLIES[0]}"
            )
        found.setdefault(normalised(messages_of(prompt, f"{key}: {where}")), []).append(reply)
    return found


def messages_of(prompt: Any, where: str) -> list[dict[str, str]]:
    """The messages of a prompt column: a text is the client's one turn.

    Raises:
        UserError: naming `where`, for anything but a text or a list of messages.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    is_chat = isinstance(prompt, list) and all(
        isinstance(each, dict) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
        for each in prompt
    )
    if not is_chat:
        raise UserError(f"{where}: its prompt is neither a text nor a list of {{role, content}} messages")
    return list(prompt)
