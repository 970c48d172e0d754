"""Looks up answers in the journal of a directory, and adds new ones. An answer is found again by a hash of its model and Ask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from psychocounsel.asking.language_model import TEXT, UNPARSABLE, Answer, Ask, LanguageModel
from psychocounsel.remote.journal import Bought, Journal
from psychocounsel.remote.journal_lines import Line

T = TypeVar("T")
Read = Callable[[str], T]  # of an answer's text; raises ValueError, saying why, for one that cannot be used


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of an Ask in the end.

    Attributes:
        outcome: `text`, then `value` is what `read` made of it; else as in Answer, or `unparsable`.
        answer: the last one.
        attempts: how many answers there were.
    """

    outcome: str
    value: T | None
    answer: Answer
    attempts: int


def answer_key(model: LanguageModel, ask: Ask, attempt: int) -> str:
    """sha256 of what an answer depends on: the model's identity, messages (with the whole prompt), part, attempt and schema."""
    messages = [{**message, "content": _digest(message["content"])} for message in ask.messages]
    parts = [model.digest, messages, ask.part, attempt, ask.schema]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _label(index: int, count: int) -> str:
    return f"share-{index:03d}-of-{count:03d}"


@lru_cache(maxsize=1024)  # a rubric of 65,000 characters stands before every reply that is rated
def _digest(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


class Answers:
    """The journal of answers in `folder`. Memory holds where each lies (16 bytes), and no answers.

    `share` is which of how many processes this is, from 0; files of the journal name it, so that what each of them has
    bought is known.

    Raises:
        UserError: if the journal is damaged; it names file and line.
    """

    def __init__(self, folder: Path, share: tuple[int, int] = (0, 1)) -> None:
        self.share = share
        self.journal = Journal(folder, _label(*share) if share[1] > 1 else "")

    def of_shares(self) -> list[Bought]:
        """What each of the processes that share the work has bought, in their order; of a single one all that is there."""
        if self.share[1] == 1:
            return [self.journal.total]
        return [self.journal.bought.get(_label(index, self.share[1]), Bought()) for index in range(self.share[1])]

    def find(self, model: LanguageModel, ask: Ask, attempt: int) -> Answer | None:
        """The answer to an attempt, if it was bought."""
        line = self.journal.get(answer_key(model, ask, attempt))
        return None if line is None else Answer(**line.answer)

    def keep(self, bought: Sequence[tuple[LanguageModel, Ask, int, Answer, float]]) -> None:
        """Keep answers (model, Ask, attempt, answer, cost); they are on disk when this returns."""
        self.journal.add_all(
            [
                Line(answer_key(model, ask, attempt), asdict(answer), ask.speech, cost)
                for model, ask, attempt, answer, cost in bought
            ]
        )

    def settled(self, model: LanguageModel, ask: Ask, read: Read[T], retries: int) -> Outcome[T] | int:
        """What came of an Ask by the answers that are there; or the number of the attempt that is to be asked next.

        `retries` is how often an answer that `read` cannot use is asked anew.
        """
        for attempt in range(retries + 1):
            answer = self.find(model, ask, attempt)
            if answer is None:
                return attempt
            if (outcome := outcome_of(ask, answer, read, attempt, retries)) is not None:
                return outcome
        raise AssertionError("the last attempt has an outcome")

    def close(self) -> None:
        self.journal.close()


def outcome_of(ask: Ask, answer: Answer, read: Read[T], attempt: int, retries: int) -> Outcome[T] | None:
    """What came of `ask` with this answer to its attempt number `attempt`; None if it is to be asked anew."""
    if answer.outcome != TEXT:
        return Outcome(answer.outcome, None, answer, attempt + 1)
    try:
        value = read(answer.text)
        ask.check_value(value)
        return Outcome(TEXT, value, answer, attempt + 1)
    except ValueError:
        return Outcome(UNPARSABLE, None, answer, attempt + 1) if attempt >= retries else None
