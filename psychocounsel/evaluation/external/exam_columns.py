"""Columns of exam files: their usual names, and the formats of choices and answers in public exams."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from psychocounsel.errors import UserError

Row = Mapping[str, Any]

# Column names that public exams use, in order of preference.
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
        return tuple(part for each in answer for part in answer_parts(each, letters, choices))
    text = str(answer).strip()
    if text in choices:
        return (text,)
    if text.isdecimal():
        return (int(text),)
    pieces = [piece for each in _SPLIT.split(text) if (piece := each.strip("[]{}()'\".:"))]
    if len(pieces) == 1 and 1 < len(pieces[0]) <= len(letters) and pieces[0].isupper():
        pieces = [*pieces[0]]  # ACD
    return tuple(pieces) if all(each.upper() in letters for each in pieces) else (text,)


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
        found = [text_of(text, where, "choices") for text in value.values()]
        letters = [key.strip().upper() for key in value]
        if letters != [*ascii_uppercase[: len(letters)]] and letters != [str(n + 1) for n in range(len(letters))]:
            raise UserError(f"{where}: the choices must be labelled A, B, C and so on, in this order")
    elif isinstance(value, list | tuple):
        found = [text_of(text, where, "choices") for text in value]
    else:
        raise UserError(f"{where}: the choices must be a list, or columns A, B, C and so on")
    stripped = [LABELLED.fullmatch(text) for text in found]
    if all(match and match[1].upper() == letter for match, letter in zip(stripped, ascii_uppercase, strict=False)):
        found = [match[2] for match in stripped if match]  # "A. Grief"
    if not 2 <= len(found) <= len(ascii_uppercase):
        raise UserError(f"{where}: needs 2 to {len(ascii_uppercase)} choices, but has {len(found)}")
    if len({*found}) < len(found):
        raise UserError(f"{where}: two of the choices are the same text")
    return tuple(ascii_uppercase[: len(found)]), tuple(found)


def _labelled(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert `{label: [A, B], text: [..., ...]}` to `{A: ..., B: ...}`; return other mappings unchanged."""
    labels, texts = value.get("label"), value.get("text")
    if isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts):
        return dict(zip(labels, texts, strict=True))
    return value


def _from_text(value: str, where: str) -> Any:
    """Parse a list or mapping that a column of a CSV file holds as JSON text."""
    try:
        return json.loads(value)
    except ValueError as error:
        raise UserError(
            f"{where}: the choices are text, but not a JSON list; write a JSON list or columns A, B, C and so on"
        ) from error


def one_column_each(row: Row) -> dict[str, Any]:
    """Return the choices held in columns such as A, a, option_a or opa, by letter; {} without such columns."""
    for pattern in _LETTERED:
        for change in (str.upper, str.lower):
            names = {letter: pattern.format(change(letter)) for letter in ascii_uppercase}
            found = {letter: row[name] for letter, name in names.items() if row.get(name) not in (None, "")}
            if len(found) >= 2:
                return found
    return {}


def held(row: Row, name: str, columns: Mapping[str, str]) -> Iterator[Any]:
    """Yield the values of the existing columns that may hold `name`."""
    candidates = (columns[name],) if name in columns else COLUMNS[name]
    return (row[each] for each in candidates if row.get(each) is not None)


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
