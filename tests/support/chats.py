"""Conversations in the test's own process, over a pipe."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from psychocounsel import api
from psychocounsel.chatting.talking import talk


def converse(monkeypatch: pytest.MonkeyPatch, text: str, *overrides: str) -> int:
    """What `python -m psychocounsel.chat` returns that is given `text`; it prints to this process's standard output."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return talk(api.compose(list(overrides), name="chat"))


def served(address: str, name: str = "served") -> str:
    """The override for a model of a server."""
    return f"model={{path: '{address}', model: {name}}}"


def rows(file: Path) -> list[dict[str, Any]]:
    """The turns of a transcript."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def texts(file: Path) -> list[str]:
    """The first model's replies in a transcript."""
    return [row["replies"][0]["text"] for row in rows(file)]
