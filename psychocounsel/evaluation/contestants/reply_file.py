"""Contestant whose replies come from a file: another program or a person wrote them to the same speeches."""

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
    """Replies from the file `model`: JSONL, JSON, CSV, TSV or parquet with the columns `prompt` and `reply`.

    Several rows with one prompt are its samples, in file order. Prompts are compared after normalisation: case,
    spacing, Unicode form and the system message do not matter.
    """

    def open(self, key: str) -> Answerer:
        return _Reading(self, key)

    def check(self, key: str) -> None:
        """Raise UserError if the file does not exist."""
        if not self.model or not Path(self.model).is_file():
            raise UserError(f"{key}: {self.model}: no such file of replies")

    def identity(self) -> dict[str, Any]:
        """Return the identity for the journal; it includes the file's hash, because a changed file gives other replies."""
        return {"kind": "ReplyFile", "name": self.name, "content": self.content()}

    def content(self) -> str | None:
        """Return the sha256 of the file; None if the file no longer exists."""
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
    """Return the file's replies to each normalised prompt. `key`: the setting that error messages name.

    Raises:
        UserError: if the file cannot be read, or a row lacks its prompt or reply.
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
                f"{key}: {where}: has no prompt or no reply; name the columns {_PROMPTS[0]} and {_REPLIES[0]}"
            )
        found.setdefault(normalised(messages_of(prompt, f"{key}: {where}")), []).append(reply)
    return found


def messages_of(prompt: Any, where: str) -> list[dict[str, str]]:
    """Return a prompt column as chat messages. A text becomes the client's only turn.

    Raises:
        UserError: if the prompt is neither a text nor a list of messages; the error names `where`.
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
