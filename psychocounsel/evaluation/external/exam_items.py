"""Multiple-choice items from a user's file: question, choices and right answer, under the names that public sets use."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from psychocounsel.errors import UserError

Row = Mapping[str, Any]

# Names that public sets use, in the order in which they are looked for.
COLUMNS: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "stem", "prompt", "input"),
    "choices": ("choices", "options", "candidates", "endings"),
    "answer": (
        "answer",
        "answers",
        "answer_idx",
        "answerKey",
        "correct_answer",
        "correct",
        "target",
        "gold",
        "label",
        "cop",
    ),
    "context": ("context", "vignette", "case", "passage"),
    "topic": ("topic", "subject", "category", "area", "domain", "subject_name"),
}
_LETTERED = ("{}", "option_{}", "option{}", "choice_{}", "choice{}", "op{}")  # columns that hold one choice each
_SPLIT = re.compile(r"[\s,;/&+]+")
_LABELLED = re.compile(r"\s*\(?([A-Za-z])\s*[.):\]]\s*(.*\S)\s*", re.DOTALL)


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
    return any(_held(row, "choices", columns)) or len(_one_column_each(row)) >= 2


def exam_set(name: str, rows: Iterable[tuple[str, Row]], columns: Mapping[str, str]) -> ExamSet:
    """Read the items of a file from pairs of place and row; `columns` names columns by what they hold (keys of COLUMNS).

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
        letters, choices = _choices(row, columns, where)
        answer = _needed(row, "answer", columns, where)
        texts = {name: next(_held(row, name, columns), None) for name in ("context", "topic")}
        return cls(
            where,
            _text(_needed(row, "question", columns, where), where, "question"),
            choices,
            _parts(answer, letters, choices),
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
        elif (labelled := _LABELLED.fullmatch(part)) and labelled[1].upper() in self.letters:
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


def _parts(answer: Any, letters: Sequence[str], choices: Sequence[str]) -> tuple[Any, ...]:
    """The answer's parts: places as int, letters or texts."""
    if isinstance(answer, bool):
        return (str(answer),)
    if isinstance(answer, float) and answer.is_integer():
        return (int(answer),)
    if isinstance(answer, int):
        return (answer,)
    if isinstance(answer, list | tuple):
        return tuple(part for each in answer for part in _parts(each, letters, choices))
    text = str(answer).strip()
    if text in choices:
        return (text,)
    if text.isdigit():
        return (int(text),)
    pieces = [piece for each in _SPLIT.split(text) if (piece := each.strip("[]{}()'\".:"))]
    if len(pieces) == 1 and 1 < len(pieces[0]) <= len(letters) and pieces[0].isupper():
        pieces = [*pieces[0]]  # ACD
    return tuple(pieces) if all(each.upper() in letters for each in pieces) else (text,)


def _choices(row: Row, columns: Mapping[str, str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Letters and texts of a row's choices."""
    value = next(_held(row, "choices", columns), None)
    if value is None:
        value = _one_column_each(row)
    if isinstance(value, str):
        value = _from_text(value, where)
    if isinstance(value, Mapping):
        labels, texts = value.get("label"), value.get("text")
        value = dict(zip(labels, texts, strict=True)) if _same_length(labels, texts) else value
        value = {str(key): text for key, text in value.items() if text not in (None, "")}
        found = [_text(text, where, "choices") for text in value.values()]
        letters = [key.strip().upper() for key in value]
        if letters != [*ascii_uppercase[: len(letters)]] and letters != [str(n + 1) for n in range(len(letters))]:
            raise UserError(f"{where}: its choices must be labelled A, B, C and so on, in this order")
    elif isinstance(value, list | tuple):
        found = [_text(text, where, "choices") for text in value]
    else:
        raise UserError(f"{where}: its choices must be a list, or columns A, B, C and so on")
    stripped = [_LABELLED.fullmatch(text) for text in found]
    if all(match and match[1].upper() == letter for match, letter in zip(stripped, ascii_uppercase, strict=False)):
        found = [match[2] for match in stripped if match]  # "A. Grief"
    if not 2 <= len(found) <= len(ascii_uppercase):
        raise UserError(f"{where}: needs 2 to {len(ascii_uppercase)} choices and has {len(found)}")
    if len({*found}) < len(found):
        raise UserError(f"{where}: two of its choices are the same text")
    return tuple(ascii_uppercase[: len(found)]), tuple(found)


def _same_length(labels: Any, texts: Any) -> bool:
    return isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts)


def _from_text(value: str, where: str) -> Any:
    """A list or mapping in a column of a CSV file."""
    try:
        return json.loads(value)
    except ValueError as error:
        raise UserError(
            f"{where}: its choices are text that is no JSON list; or give columns A, B, C and so on"
        ) from error


def _one_column_each(row: Row) -> dict[str, Any]:
    """Choices that stand in columns A, B, ... or a, b, ...; option_a, opa and the like; {} without them."""
    for pattern in _LETTERED:
        for change in (str.upper, str.lower):
            names = {letter: pattern.format(change(letter)) for letter in ascii_uppercase}
            found = {letter: row[name] for letter, name in names.items() if row.get(name) not in (None, "")}
            if len(found) >= 2:
                return found
    return {}


def _held(row: Row, name: str, columns: Mapping[str, str]) -> Iterable[Any]:
    """Values of the columns that may hold `name`, as far as they are there."""
    candidates = (columns[name],) if name in columns else COLUMNS[name]
    return (row[each] for each in candidates if row.get(each) is not None)


def _needed(row: Row, name: str, columns: Mapping[str, str], where: str) -> Any:
    for value in _held(row, name, columns):
        return value
    known = columns.get(name) or " or ".join(COLUMNS[name])
    raise UserError(
        f"{where}: has no {name} ({known}); say which column holds it: {{path: FILE, columns: {{{name}: NAME}}}}"
    )


def _text(value: Any, where: str, name: str) -> str:
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UserError(f"{where}: its {name} must be text")
    return str(value).strip()
