"""Multiple-choice items from a user's file: question, choices and right answer, in the formats of public exams."""

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
    """Question with its choices.

    Attributes:
        item: id, a hash of context, question and choices (16 hexadecimal digits).
        question: text of the question.
        choices: texts of the choices in the file's order.
        right: positions of the right choices, from 0; several if the item asks for all right ones.
        context: text that several items may share, for instance a vignette; None without one.
        topic: topic as the file names it.
    """

    item: str
    question: str
    choices: tuple[str, ...]
    right: frozenset[int]
    context: str | None = None
    topic: str | None = None

    @property
    def cluster(self) -> str:
        """Key of the items that are resampled together: the shared context, or the item itself."""
        return self.context or self.item


@dataclass(frozen=True)
class ExamSet:
    """Distinct items of an exam file; `repeated` is the number of rows that repeat an earlier one."""

    name: str
    items: tuple[ExamItem, ...]
    repeated: int = 0


def is_exam_row(row: Row, columns: Mapping[str, str]) -> bool:
    """Return True if a row has choices, which makes it an exam item."""
    return any(held(row, "choices", columns)) or len(one_column_each(row)) >= 2


def exam_set(name: str, rows: Iterable[tuple[str, Row]], columns: Mapping[str, str]) -> ExamSet:
    """Read the items of an exam. `rows`: (place in the file, row); `columns`: the user's column names by key of COLUMNS.

    An answer is a letter, the text of a choice, both ("b: Grief"), or a position. Positions count from 0 if some answer is
    0, and from 1 if some answer equals the number of its choices.

    Raises:
        UserError: if a row is unusable (the error names its place, never its text), if positions could count from 0 or
            from 1, or if two rows ask the same question with different answers.
    """
    drafts = [_Draft.of(where, row, columns) for where, row in rows]
    first = _first_place(drafts, name)
    items: dict[str, ExamItem] = {}
    for draft in drafts:
        item = draft.item(first)
        if items.setdefault(item.item, item).right != item.right:
            raise UserError(
                f"{draft.where}: asks the same as an earlier row, but has another answer; correct or remove one of them"
            )
    return ExamSet(name, tuple(items.values()), len(drafts) - len(items))


@dataclass(frozen=True)
class _Draft:
    """Row before its answer is resolved: a position may count from 0 or from 1, which only the whole file shows."""

    where: str
    question: str
    choices: tuple[str, ...]
    answer: tuple[Any, ...]  # positions as int, letters or texts of choices
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
            raise UserError(f"{self.where}: the answer is empty")
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
                raise UserError(f"{self.where}: the answer names a letter with the text of another choice")
        else:
            raise UserError(f"{self.where}: the answer is not a letter, a position or the text of one of the choices")
        if not 0 <= place < len(self.choices):
            raise UserError(f"{self.where}: the answer is a position without a choice")
        return place


def _first_place(drafts: Sequence[_Draft], name: str) -> int:
    """Return the number of the first position in this file, 0 or 1."""
    places = [(part, len(draft.choices)) for draft in drafts for part in draft.answer if isinstance(part, int)]
    from_0, from_1 = any(part == 0 for part, _ in places), any(part == count for part, count in places)
    if from_0 and from_1:
        raise UserError(
            f"{name}: the answers are positions, but one is 0 and another is the number of choices; write letters instead"
        )
    if places and not from_0 and not from_1:
        raise UserError(
            f"{name}: the answers are positions that could count from 0 or from 1; write letters (A, B, ...) instead"
        )
    return int(from_1)
