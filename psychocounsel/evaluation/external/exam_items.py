"""Multiple-choice items from a user's file: question, choices and right answer, under the names that public sets use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluation.external.exam_columns import (
    LABELLED,
    Row,
    answer_parts,
    choices_of,
    held,
    needed,
    one_column_each,
    text_of,
)


@dataclass(frozen=True)
class ExamItem:
    """A question with its choices.

    Attributes:
        item: 16 hexadecimal digits of context, question and choices.
        choices: their texts in the file's order.
        right: places of the right choices, from 0; several where the item asks for all that are right.
        context: a text that several items may share, as a vignette; None without one.
        topic: the file's own name for what is asked about.
    """

    item: str
    question: str
    choices: tuple[str, ...]
    right: frozenset[int]
    context: str | None = None
    topic: str | None = None

    @property
    def cluster(self) -> str:
        """What items that share a context have in common; they are resampled together."""
        return self.context or self.item


@dataclass(frozen=True)
class ExamSet:
    """The items of a file, each once; `repeated` is how many rows said the same again."""

    name: str
    items: tuple[ExamItem, ...]
    repeated: int = 0


def is_exam_row(row: Row, columns: Mapping[str, str]) -> bool:
    """Whether a row has choices, so that it is an item of an exam."""
    return any(held(row, "choices", columns)) or len(one_column_each(row)) >= 2


def exam_set(name: str, rows: Iterable[tuple[str, Row]], columns: Mapping[str, str]) -> ExamSet:
    """Read the items of a file from pairs of place and row; `columns` names columns by what they hold, as COLUMNS.

    Answers are letters, the text of a choice, both ("b: Grief"), or places. Places are counted from 0 if a row says 0, and
    from 1 if one is the number of its choices.

    Raises:
        UserError: for a row that cannot be used (its place is named, its text never), places that could be counted either
            way, or two rows that ask the same and disagree about the answer.
    """
    drafts = [_Draft.of(where, row, columns) for where, row in rows]
    first = _first_place(drafts, name)
    items: dict[str, ExamItem] = {}
    for draft in drafts:
        item = draft.item(first)
        if items.setdefault(item.item, item).right != item.right:
            raise UserError(
                f"{draft.where}: asks the same as an earlier row with another answer; correct or remove one"
            )
    return ExamSet(name, tuple(items.values()), len(drafts) - len(items))


@dataclass(frozen=True)
class _Draft:
    """A row whose answer may be a place, of which only the whole file tells how it is counted."""

    where: str
    question: str
    choices: tuple[str, ...]
    answer: tuple[Any, ...]  # a place as int, else a letter or text
    letters: tuple[str, ...]
    context: str | None
    topic: str | None

    @classmethod
    def of(cls, where: str, row: Row, columns: Mapping[str, str]) -> _Draft:
        letters, choices = choices_of(row, columns, where)
        answer = needed(row, "answer", columns, where)
        texts = {name: next(held(row, name, columns), None) for name in ("context", "topic")}
        return cls(
            where,
            text_of(needed(row, "question", columns, where), where, "question"),
            choices,
            answer_parts(answer, letters, choices),
            letters,
            *(None if value is None else str(value).strip() or None for value in texts.values()),
        )

    def item(self, first: int) -> ExamItem:
        right = frozenset(self._place(part, first) for part in self.answer)
        if not right:
            raise UserError(f"{self.where}: its answer is empty")
        asked = json.dumps([self.context, self.question, self.choices])
        identity = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return ExamItem(identity, self.question, self.choices, right, self.context, self.topic)

    def _place(self, part: Any, first: int) -> int:
        if isinstance(part, int):
            place = part - first
        elif part in self.choices:
            place = self.choices.index(part)
        elif part.upper() in self.letters:
            place = self.letters.index(part.upper())
        elif (labelled := LABELLED.fullmatch(part)) and labelled[1].upper() in self.letters:
            place = self.letters.index(labelled[1].upper())
            if labelled[2] != self.choices[place]:
                raise UserError(f"{self.where}: its answer names a letter with the text of another choice")
        else:
            raise UserError(f"{self.where}: its answer is no letter, place or text of one of its choices")
        if not 0 <= place < len(self.choices):
            raise UserError(f"{self.where}: its answer is the place of no choice")
        return place


def _first_place(drafts: Sequence[_Draft], name: str) -> int:
    """0 or 1: how the file counts places."""
    places = [(part, len(draft.choices)) for draft in drafts for part in draft.answer if isinstance(part, int)]
    from_0, from_1 = any(part == 0 for part, _ in places), any(part == count for part, count in places)
    if from_0 and from_1:
        raise UserError(
            f"{name}: its answers are places of which one is 0 and one is the number of choices; give letters"
        )
    if places and not from_0 and not from_1:
        raise UserError(
            f"{name}: its answers are places that could be counted from 0 or from 1; give letters (A, B, ...)"
        )
    return int(from_1)
