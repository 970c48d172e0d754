"""Runner of `chat` in the test's own process, with the typed text given as standard input."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from psychocounsel import api
from psychocounsel.chatting.conversation import talk


def converse(monkeypatch: pytest.MonkeyPatch, text: str, *overrides: str) -> int:
    """Run `psychocounsel chat` on `text` and return its exit code. It prints to this process's standard output."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return talk(api.compose(list(overrides), name="chat"))


def served(address: str, name: str = "served") -> str:
    """Return the override that selects a model served at `address`."""
    return f"model={{path: '{address}', model: {name}}}"


def rows(file: Path) -> list[dict[str, Any]]:
    """Return the turns of a transcript."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def texts(file: Path) -> list[str]:
    """Return the first model's replies in a transcript."""
    return [row["replies"][0]["text"] for row in rows(file)]
