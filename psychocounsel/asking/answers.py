"""Looks up answers in a directory's journal, and adds new ones. The key of an answer is a hash of its model and its Ask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from psychocounsel.asking.language_model import TEXT, UNPARSABLE, Answer, Ask, LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.remote.journal import Bought, Journal
from psychocounsel.remote.journal_lines import Line
from psychocounsel.storage.text_hashes import text_hash

T = TypeVar("T")
Read = Callable[[str], T]  # parses an answer's text; raises ValueError with the reason if the text is unusable


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """Final result of an Ask.

    Attributes:
        outcome: `text` if `read` parsed the answer, and `value` is the result; otherwise an outcome of Answer, or `unparsable`.
        answer: the last answer.
        attempts: the number of answers.
    """

    outcome: str
    value: T | None
    answer: Answer
    attempts: int


_digest = lru_cache(maxsize=1024)(text_hash)  # the same rubric of 65,000 characters begins every rating prompt


def answer_key(model: LanguageModel, ask: Ask, attempt: int) -> str:
    """Return the sha256 of everything that an answer depends on: model identity, messages, part, attempt and schema."""
    messages = [{**message, "content": _digest(message["content"])} for message in model.sent(ask.messages)]
    parts = [model.digest, messages, ask.part, attempt, ask.schema]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Call(Protocol):
    """A question to a judge; `ask` is None if it must not or cannot be asked."""

    @property
    def judge(self) -> LanguageModel: ...
    @property
    def ask(self) -> Ask | None: ...


def asks_of(calls: Iterable[Call]) -> Iterator[tuple[LanguageModel, Ask]]:
    """Yield each question once, because replies of two contestants or of two samples may be the same text."""
    seen = set[str]()
    for call in calls:
        if call.ask is not None and (key := answer_key(call.judge, call.ask, 0)) not in seen:
            seen.add(key)
            yield call.judge, call.ask


def _label(index: int, count: int) -> str:
    return f"share-{index:03d}-of-{count:03d}"


class Answers:
    """The journal of answers in `folder`. Memory holds only each answer's place in the files (16 bytes).

    `share` is (index from 0, count) of this process among all that share the work. The names of journal files contain it, so
    every process can see how much each of the others has bought.

    Raises:
        UserError: if the journal is damaged; names file and line.
    """

    def __init__(self, folder: Path, share: tuple[int, int] = (0, 1)) -> None:
        self.share = share
        self.journal = Journal(folder, _label(*share) if share[1] > 1 else "")

    def of_shares(self) -> list[Bought]:
        """Return what each of the sharing processes has bought, in order; a single process owns the whole journal."""
        if self.share[1] == 1:
            return [self.journal.total]
        return [self.journal.bought.get(_label(index, self.share[1]), Bought()) for index in range(self.share[1])]

    def find(self, model: LanguageModel, ask: Ask, attempt: int) -> Answer | None:
        """Return the answer to an attempt, or None if it was not bought yet."""
        line = self.journal.get(answer_key(model, ask, attempt))
        try:
            return None if line is None else Answer(**line.answer)
        except TypeError as error:
            raise UserError(
                f"{self.journal.folder}: the answer with the key {answer_key(model, ask, attempt)} has another form: remove its "
                "line, and it is asked again"
            ) from error

    def keep(self, bought: Sequence[tuple[LanguageModel, Ask, int, Answer, float]]) -> None:
        """Add answers (model, Ask, attempt, answer, cost) to the journal; they are on disk when this returns."""
        self.journal.add_all(
            [
                Line(answer_key(model, ask, attempt), asdict(answer), ask.speech, cost)
                for model, ask, attempt, answer, cost in bought
            ]
        )

    def settled(self, model: LanguageModel, ask: Ask, read: Read[T], retries: int) -> Outcome[T] | int:
        """Return the outcome of an Ask from the answers in the journal, or the number of the next attempt to ask.

        `retries` is the number of further attempts after an answer that `read` cannot use.
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
    """Return the outcome of `ask` given this answer to attempt number `attempt`, or None if another attempt is needed."""
    if answer.outcome != TEXT:
        return Outcome(answer.outcome, None, answer, attempt + 1)
    try:
        return Outcome(TEXT, ask.value_in(answer.text, read), answer, attempt + 1)
    except ValueError:
        return Outcome(UNPARSABLE, None, answer, attempt + 1) if attempt >= retries else None


def odd_outcomes(counts: Mapping[str, int], usual: Collection[str] = (TEXT,)) -> str:
    """Return `2 cut, 1 failed`: the numbers of calls by outcome, in alphabetical order, without the `usual` outcomes."""
    return ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()) if outcome not in usual)
