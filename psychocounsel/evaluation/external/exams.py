"""Exams from a user's file: multiple-choice items in the formats of public exams, their prompts, and the answers' letters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np

from psychocounsel.asking.answer_text import without_thoughts
from psychocounsel.asking.language_model import Ask
from psychocounsel.data.files import without_doubles
from psychocounsel.errors import UserError
from psychocounsel.storage.text_hashes import seed_of, text_id

# Columns of exam files: their usual names, and the formats of choices and answers in public exams.

Row = Mapping[str, Any]

# Column names that public exams use, in order of preference.
COLUMNS: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "stem", "prompt", "input"),
    "choices": ("choices", "options", "candidates", "endings"),
    "answer": (
        *("answer", "answers", "answer_idx", "answerKey", "correct_answer", "correct", "target", "gold", "label"),
        "cop",
    ),
    "context": ("context", "vignette", "case", "passage"),
    "topic": ("topic", "subject", "category", "area", "domain", "subject_name"),
}
_LETTERED = ("{}", "option_{}", "option{}", "choice_{}", "choice{}", "op{}")  # columns that hold one choice each
_SPLIT = re.compile(r"[\s,;/&+]+")
LABELLED = re.compile(r"\s*\(?([A-Za-z])\s*[.):\]]\s*(.*\S)\s*", re.DOTALL)


def answer_parts(answer: Any, letters: Sequence[str], choices: Sequence[str]) -> tuple[Any, ...]:
    """Split an answer into its parts: each is a position (int), a letter or the text of a choice."""
    if isinstance(answer, bool):
        return (str(answer),)
    if isinstance(answer, float) and answer.is_integer():
        return (int(answer),)
    if isinstance(answer, int):
        return (answer,)
    if isinstance(answer, list | tuple):
        return tuple(part for entry in answer for part in answer_parts(entry, letters, choices))
    text = str(answer).strip()
    if text in choices:
        return (text,)
    if text.isascii() and text.isdecimal():
        return (int(text),)
    pieces = [piece for fragment in _SPLIT.split(text) if (piece := fragment.strip("[]{}()'\".:"))]
    if len(pieces) == 1 and 1 < len(pieces[0]) <= len(letters) and pieces[0].isupper():
        pieces = [*pieces[0]]  # ACD
    return tuple(pieces) if all(piece.upper() in letters for piece in pieces) else (text,)


def choices_of(row: Row, columns: Mapping[str, str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the letters and the texts of a row's choices.

    Raises:
        UserError: if the choices are malformed, too few or too many, or two are equal; the error names `where`.
    """
    value = next(held(row, "choices", columns), None)
    if value is None:
        value = one_column_each(row)
    if isinstance(value, str):
        value = _from_text(value, where)
    if isinstance(value, Mapping):
        value = _labelled(value)
        value = {str(key): text for key, text in value.items() if text not in (None, "")}
        texts = [text_of(text, where, "choices") for text in value.values()]
        letters = [key.strip().upper() for key in value]
        if letters != [*ascii_uppercase[: len(letters)]] and letters != [str(n + 1) for n in range(len(letters))]:
            raise UserError(f"{where}: the choices must be labelled A, B, C and so on, in this order")
    elif isinstance(value, list | tuple):
        texts = [text_of(text, where, "choices") for text in value]
    else:
        raise UserError(f"{where}: the choices must be a list, or columns A, B, C and so on")
    stripped = [LABELLED.fullmatch(text) for text in texts]
    if all(match and match[1].upper() == letter for match, letter in zip(stripped, ascii_uppercase, strict=False)):
        texts = [match[2] for match in stripped if match]  # "A. Grief"
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise UserError(f"{where}: needs 2 to {len(ascii_uppercase)} choices, but has {len(texts)}")
    if len({*texts}) < len(texts):
        raise UserError(f"{where}: two of the choices are the same text")
    return tuple(ascii_uppercase[: len(texts)]), tuple(texts)


def _labelled(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert `{label: [A, B], text: [..., ...]}` to `{A: ..., B: ...}`; return other mappings unchanged."""
    labels, texts = value.get("label"), value.get("text")
    if isinstance(labels, list) and isinstance(texts, list) and len({*map(str, labels)}) == len(labels) == len(texts):
        labels = [*map(str, labels)]
        return dict(zip(labels, texts, strict=True))
    return value


def _from_text(value: str, where: str) -> Any:
    """Parse a list or mapping that a column of a CSV file holds as JSON text."""
    try:
        return json.loads(value, object_pairs_hook=without_doubles)
    except UserError as error:
        raise UserError(f"{where}: the list of choices {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: the choices are text, but not a JSON list; write a JSON list or columns A, B, C and so on"
        ) from error


def one_column_each(row: Row) -> dict[str, Any]:
    """Return the choices held in columns such as A, a, option_a or opa, by letter; {} without such columns."""
    for pattern in _LETTERED:
        for change in (str.upper, str.lower):
            names = {letter: pattern.format(change(letter)) for letter in ascii_uppercase}
            choices = {letter: row[name] for letter, name in names.items() if row.get(name) not in (None, "")}
            if len(choices) >= 2:
                return choices
    return {}


def held(row: Row, name: str, columns: Mapping[str, str]) -> Iterator[Any]:
    """Yield the values of the existing columns that may hold `name`."""
    candidates = (columns[name],) if name in columns else COLUMNS[name]
    return (row[column] for column in candidates if row.get(column) is not None)


def needed(row: Row, name: str, columns: Mapping[str, str], where: str) -> Any:
    for value in held(row, name, columns):
        return value
    known = columns.get(name) or " or ".join(COLUMNS[name])
    raise UserError(
        f"{where}: has no {name} ({known}); name the column that holds it: {{path: FILE, columns: {{{name}: NAME}}}}"
    )


def text_of(value: Any, where: str, name: str) -> str:
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UserError(f"{where}: the {name} must be text")
    return str(value).strip()


# Multiple-choice items from a user's file: question, choices and right answer, in the formats of public exams.


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
        """Key of the items that count as one cluster: the shared context, or the item itself."""
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
        identity = text_id(json.dumps([self.context, self.question, self.choices]))
        return ExamItem(identity, self.question, self.choices, right, self.context, self.topic)

    def _place(self, part: Any, first: int) -> int:
        if isinstance(part, int):
            place = part - first
            if str(part) in self.choices and self.choices.index(str(part)) != place:
                raise UserError(
                    f"{self.where}: the answer {part} is a position, and the text of another choice; write the choice's letter"
                )
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


# Exam prompts: the request for an item, the order of its choices, and the reading of letters from an answer.

_ONE = "Answer the question with the letter of the right choice alone, as A. Write nothing else."
_SEVERAL = "Several choices are right. Answer the question with the letters of all of them and nothing else, as A, C."

# "All of the above", "A and B", "both of these": such a choice refers to others by their positions.
_OTHERS = r"above|below|of these|of the (?:other|following|preceding)"
_NAMES_OTHERS = re.compile(
    rf"\b(?:{_OTHERS})\b|\b[A-F]\s*(?:,|and|or|&)\s*[A-F]\b|\b(?:both|neither) [A-F]\b", re.IGNORECASE
)
_KINDS = r"(?:answer|choice|option)s?(?:\s+(?:is|are))?"
_LEAD = rf"\s*(?i:[*_]*(?:the\s+)?(?:correct\s+|right\s+|final\s+)?{_KINDS}\s*[:=]?[*_]*)?"
_OPEN, _CLOSE = r"[\s*_`(\[\"']*", r"[\s*_`)\]\"'.:]*"
_ALONE = re.compile(rf"{_LEAD}{_OPEN}([A-Za-z]){_CLOSE}")
_BOXED = re.compile(rf"{_LEAD}\s*\\boxed\{{(?:\\text\{{)?\s*([A-Za-z](?:\s*,?\s*[A-Za-z])*)\s*\}}?\}}\.?\s*")
_WITH_TEXT = re.compile(rf"{_LEAD}{_OPEN}([A-Za-z])[\s*_]*[.:)\]][\s*_)\"']*(.+?)[\s*_\"']*", re.DOTALL)
_LIST = re.compile(rf"{_LEAD}{_OPEN}([A-Z](?:\s*(?:,|;|/|&|\band\b)?\s*[A-Z])*){_CLOSE}")


@dataclass(frozen=True, kw_only=True)
class ExamAsk(Ask):
    """Request for the answer to an item. `shown[p]` is the position in the file of the choice under letter number p."""

    item: ExamItem
    order: int
    shown: tuple[int, ...]


def is_shuffled(item: ExamItem) -> bool:
    """Return True if the choices may be reordered, because none of them refers to others by their positions."""
    return not any(_NAMES_OTHERS.search(choice) for choice in item.choices)


def shown_order(item: ExamItem, order: int, seed: int) -> tuple[int, ...]:
    """Return the file's order if `order` is 0, otherwise a random one that depends only on seed, item and `order`."""
    places = np.arange(len(item.choices))
    if order:
        places = np.random.default_rng([seed, order, int(item.item, 16)]).permutation(places)
    return tuple(int(place) for place in places)


def exam_asks(items: Sequence[ExamItem], shuffles: int, seed: int) -> Iterator[ExamAsk]:
    """Yield the requests for each item: one in the file's order, and `shuffles` in random orders if it may be shuffled."""
    for item in items:
        for order in range(1 + (shuffles if is_shuffled(item) else 0)):
            shown = shown_order(item, order, seed)
            number = seed_of(f"{seed} {order} {item.item}")
            yield ExamAsk(
                speech=item.item,
                messages=_messages(item, shown),
                seed=number,
                part=f"exam order {order}",
                item=item,
                order=order,
                shown=shown,
            )


def _messages(item: ExamItem, shown: Sequence[int]) -> tuple[dict[str, str], ...]:
    choices = [f"{letter}. {item.choices[place]}" for letter, place in zip(ascii_uppercase, shown, strict=False)]
    parts = [*([item.context] if item.context else []), item.question, "\n".join(choices)]
    return (
        {"role": "system", "content": _SEVERAL if len(item.right) > 1 else _ONE},
        {"role": "user", "content": "\n\n".join(parts)},
    )


def read_letters(text: str, choices: Sequence[str], several: bool) -> frozenset[int] | None:
    """Return the positions (from 0, as shown) of the letters that an answer names; None for an unreadable answer.

    `choices` are the texts in the order shown. Three forms are read: a letter alone (B, "(b)", "**B.**", "Answer: B",
    "\\boxed{B}"); a letter with the whole text of its choice ("B. Grief"); and, if `several` choices may be right, a list of
    letters ("A, C", "AC"). Longer answers are not searched for letters, because a word ("A client ...") or a rejected
    choice may contain one.
    """
    text = without_thoughts(text).strip()
    boxed = _BOXED.fullmatch(text)
    listed = boxed or (_LIST.fullmatch(text) if several else None)
    if listed:
        letters = [letter.upper() for letter in re.sub(r"\band\b", " ", listed[1]) if letter.isalpha()]
        if len({*letters}) == len(letters) and (several or len(letters) == 1):
            return _places(letters, len(choices))
        return None
    if alone := _ALONE.fullmatch(text):
        return _places([alone[1].upper()], len(choices))
    labelled = _WITH_TEXT.fullmatch(text)
    places = _places([labelled[1].upper()], len(choices)) if labelled else None
    if labelled and places and _plain(choices[min(places)]) == _plain(labelled[2]):
        return places
    return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _places(letters: Sequence[str], count: int) -> frozenset[int] | None:
    places = frozenset(ascii_uppercase.index(letter) for letter in letters)
    return places if max(places) < count else None
