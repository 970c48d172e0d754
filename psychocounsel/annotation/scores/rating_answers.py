"""The JSON that an annotator answers with: its schema, and a strict reader that neither guesses nor repairs.

An answer holds a quotation, a reason and a rating for each principle:

    {"empathy": {"quote": "how lonely that was", "reason": "Names what she left unsaid.", "rating": 5}, ...}

Jointly rated replies stand under `reply_1`, `reply_2` and so on, each with such an object.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.asking.thoughts import without_thoughts
from psychocounsel.counsel.principles import PRINCIPLES, RATINGS

NOT_APPLICABLE = "not applicable"
ABSENT = "absent"  # the quotation where something is missing in the reply
KEYS = ("quote", "reason", "rating")  # in the order in which they are written: evidence before the number

_FENCED = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


class Unreadable(ValueError):
    """An answer that cannot be used; the message says why, and quotes nothing of it."""


@dataclass(frozen=True)
class Judgement:
    """A rating on one principle; `rating` is None where the principle is not applicable."""

    rating: int | None
    reason: str
    quote: str


Judgements = dict[str, Judgement]  # by principle, in the order of PRINCIPLES


def answer_schema(order: Sequence[str], replies: int | None = None) -> dict[str, Any]:
    """The JSON schema of an answer, principles in this order; for `replies` rated jointly, or for one (None)."""
    rating = {"anyOf": [{"type": "integer", "enum": [*RATINGS]}, {"type": "string", "enum": [NOT_APPLICABLE]}]}
    text = {"type": "string"}
    principle = _object({"quote": text, "reason": text, "rating": rating})
    reply = _object(dict.fromkeys(order, principle))
    return reply if replies is None else _object({reply_key(place): reply for place in range(replies)})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def reply_key(place: int) -> str:
    """What the reply at a place, from 0, is called in prompt and answer."""
    return f"reply_{place + 1}"


def read_answer(text: str, joint: bool = False) -> list[Judgements]:
    """The ratings of the one reply, or of each of the `joint` ones in the order in which they were shown.

    Raises:
        Unreadable: for anything but the JSON that was asked for, alone or in one code fence.
    """
    found = _mapping(_parsed(text), "the answer")
    if not joint:
        return [_judgements(found, "")]
    keys = [reply_key(place) for place in range(max(len(found), 1))]
    _check_keys(found, keys, "")
    return [_judgements(_mapping(found[key], key), f"{key}: ") for key in keys]


def _parsed(text: str) -> Any:
    text = without_thoughts(text)
    fenced = _FENCED.findall(text)
    if len(fenced) > 1:
        raise Unreadable("has several code blocks")
    try:
        return json.loads(fenced[0] if fenced else text, object_pairs_hook=_without_doubles)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable("is not valid JSON") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python would silently keep the last of two equal keys."""
    if len(dict(pairs)) < len(pairs):
        raise Unreadable("has a key twice")
    return dict(pairs)


def _judgements(found: dict[str, Any], where: str) -> Judgements:
    _check_keys(found, PRINCIPLES, where)
    return {name: _judgement(_mapping(found[name], f"{where}{name}"), f"{where}{name}") for name in PRINCIPLES}


def _judgement(found: dict[str, Any], where: str) -> Judgement:
    _check_keys(found, KEYS, f"{where}: ")
    for name in ("reason", "quote"):
        if not isinstance(found[name], str) or not found[name].strip():
            raise Unreadable(f"{where}: its {name} is no text")
        if not found[name].isascii() and any("\ud800" <= letter <= "\udfff" for letter in found[name]):
            raise Unreadable(f"{where}: its {name} holds half a character")
    return Judgement(_rating(found["rating"], where), found["reason"].strip(), found["quote"].strip())


def _rating(value: Any, where: str) -> int | None:
    if value == NOT_APPLICABLE:
        return None
    if isinstance(value, str):
        raise Unreadable(f"{where}: its rating is text")
    if type(value) is not int:  # true is an integer to Python, and 3.5 is between two rules
        raise Unreadable(f"{where}: its rating is no whole number")
    if value not in RATINGS:
        raise Unreadable(f"{where}: its rating is not from {RATINGS[0]} to {RATINGS[-1]}")
    return value


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(f"{where} is no JSON object")
    return value


def _check_keys(found: dict[str, Any], keys: Sequence[str], where: str) -> None:
    if missing := [key for key in keys if key not in found]:
        raise Unreadable(f"{where}{missing[0]} is missing")
    if len(found) > len(keys):
        raise Unreadable(f"{where or 'the answer '}has a key that was not asked for")


_MARKS = str.maketrans("\u2018\u2019\u201c\u201d\u00ab\u00bb\u2013\u2014\u00a0", '\'\'""""-- ')


def stands_in(quote: str, reply: str) -> bool:
    """Whether a quotation stands in the reply, letter by letter but for case, spacing and the shape of marks and dashes.

    Parts around an ellipsis must stand there in this order. `absent` quotes nothing, which is always true.
    """
    if _plain(quote) == ABSENT:
        return True
    place, text = 0, _plain(reply)
    parts = [part for each in re.split(r"\.\.\.|\u2026", quote) if (part := _plain(each).strip(" \"'"))]
    for part in parts:
        found = text.find(part.rstrip(".,;:"), place)
        if found < 0:
            return False
        place = found + len(part)
    return bool(parts)


def _plain(text: str) -> str:
    return " ".join(text.translate(_MARKS).casefold().split()).strip("\"' .")
