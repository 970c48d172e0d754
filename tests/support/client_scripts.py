"""Scripted clients in tests: the ways they go, and the word sequences in their texts."""

import re
from collections.abc import Iterator
from typing import Any

from psychocounsel.evaluation.session.personas import SessionExchange
from psychocounsel.evaluation.session.scripted import ScriptedPersona


def session_with(client: ScriptedPersona, reply: str) -> list[str]:
    """Return the names of the states if the counsellor always gives the same reply."""
    session: list[SessionExchange] = []
    while (turn := client.next(session, seed=0)) is not None:
        session.append(SessionExchange(turn, reply))
    return [str(exchange.client.state) for exchange in session]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", re.sub("['\u2019]", "", text.casefold()))


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    """Return all sequences of `length` words in a text."""
    said = words(text)
    return {tuple(said[start : start + length]) for start in range(len(said) - length + 1)}


def strings(content: Any) -> Iterator[str]:
    """Yield all texts in the lists and dictionaries of a file."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from strings(part)
