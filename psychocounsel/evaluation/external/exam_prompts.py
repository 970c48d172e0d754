"""Exam prompts: the request for an item, the order of its choices, and the reading of letters from an answer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from psychocounsel.asking.language_model import Ask
from psychocounsel.asking.thoughts import without_thoughts
from psychocounsel.evaluation.external.exam_items import ExamItem

_ONE = "Answer the question with the letter of the right choice alone, as A. Write nothing else."
_SEVERAL = "Several choices are right. Answer the question with the letters of all of them and nothing else, as A, C."
PROMPT_VERSION = hashlib.sha256((_ONE + _SEVERAL).encode()).hexdigest()[:16]

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
            number = int.from_bytes(hashlib.sha256(f"{seed} {order} {item.item}".encode()).digest()[:4])
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
    found = _WITH_TEXT.fullmatch(text)
    places = _places([found[1].upper()], len(choices)) if found else None
    if found and places and _plain(choices[min(places)]) == _plain(found[2]):
        return places
    return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _places(letters: Sequence[str], count: int) -> frozenset[int] | None:
    places = frozenset(ascii_uppercase.index(letter) for letter in letters)
    return places if max(places) < count else None
