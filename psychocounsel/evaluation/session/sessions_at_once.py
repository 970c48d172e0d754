"""Many sessions at once: each goes from answer to answer, and all that wait for an answer are asked side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from psychocounsel.asking.answers import Answers, Outcome, Read, answer_key
from psychocounsel.asking.language_model import Ask, LanguageModel

Call = tuple[LanguageModel, Ask]


class Waiter(Protocol):
    """What goes on from answer to answer: a session, or a judge's way through questions about one.

    Attributes:
        call: who is asked next, and what; None: it is over.
    """

    call: Call | None

    def take(self, outcome: Outcome[Any]) -> None:
        """Go on with what came of `call`."""


class SideBySide:
    """The calls of sessions, as `ask_all` takes them. Sessions that ask the same are answered by one call."""

    def __init__(self, conversations: Iterable[Waiter]) -> None:
        self._ready = deque[Call]()
        self._waiting = dict[str, list[Waiter]]()
        for each in conversations:
            self._wait(each)

    def calls(self) -> Iterator[Call | None]:
        """The calls that are known; None while all sessions wait for answers."""
        while self._waiting:
            yield self._ready.popleft() if self._ready else None

    def take(self, model: LanguageModel, ask: Ask, outcome: Outcome[Any]) -> None:
        """Let the sessions go on that wait for this answer."""
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


def replay(conversation: Waiter, answers: Answers, retries: int, read: Read[Any] = str) -> None:
    """Let a session go as far as the journal's answers lead, by `read`; `call` is then what is to be asked next, or None."""
    while conversation.call is not None:
        found = answers.settled(*conversation.call, read, retries)
        if not isinstance(found, Outcome):
            return
        conversation.take(found)
