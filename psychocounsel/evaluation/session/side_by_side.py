"""Many sessions at once: each goes from answer to answer, and all that wait for an answer are asked side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from psychocounsel.asking.answers import Answers, Outcome, answer_key
from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.evaluation.session.conversation import Call, Conversation


class SideBySide:
    """The calls of sessions, as `ask_all` takes them. Sessions that ask the same are answered by one call."""

    def __init__(self, conversations: Iterable[Conversation]) -> None:
        self._ready = deque[Call]()
        self._waiting = dict[str, list[Conversation]]()
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

    def _wait(self, conversation: Conversation) -> None:
        if conversation.call is None:
            return
        key = answer_key(*conversation.call, 0)
        if key not in self._waiting:
            self._ready.append(conversation.call)
        self._waiting.setdefault(key, []).append(conversation)


def replay(conversation: Conversation, answers: Answers, retries: int) -> None:
    """Let a session go as far as the journal's answers lead; `call` is then what is to be asked next, or None."""
    while conversation.call is not None:
        found = answers.settled(*conversation.call, str, retries)
        if not isinstance(found, Outcome):
            return
        conversation.take(found)
