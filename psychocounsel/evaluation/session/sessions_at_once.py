"""Concurrent sessions: within a session, each call needs the answer to the call before; calls of several sessions overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from psychocounsel.asking.answers import Answers, Outcome, Read, answer_key
from psychocounsel.asking.language_model import Ask, LanguageModel

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
        for each in conversations:
            self._wait(each)

    def calls(self) -> Iterator[Call | None]:
        """Yield the calls that are ready; None while all sessions wait for answers."""
        while self._waiting:
            yield self._ready.popleft() if self._ready else None

    def take(self, model: LanguageModel, ask: Ask, outcome: Outcome[Any]) -> None:
        """Pass an answer to all sessions that wait for it."""
        for each in self._waiting.pop(answer_key(model, ask, 0)):
            each.take(outcome)
            self._wait(each)

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
        found = answers.settled(*conversation.call, read, retries)
        if not isinstance(found, Outcome):
            break
        conversation.take(found)
        count += 1
    return count
