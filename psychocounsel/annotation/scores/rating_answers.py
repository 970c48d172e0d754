"""The JSON answer of an annotator: its schema, and a strict reader that neither guesses nor repairs.

An answer holds a quotation, a reason and a rating for each principle:

    {"empathy": {"quote": "how lonely that was", "reason": "Names what she left unsaid.", "rating": 5}, ...}

If replies are rated jointly, each of the keys `reply_1`, `reply_2`, ... holds such an object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.asking.strict_json import Unreadable, check_keys, json_object, object_schema, parsed_json
from psychocounsel.counsel.principles import PRINCIPLES, RATINGS

NOT_APPLICABLE = "not applicable"
KEYS = ("quote", "reason", "rating")  # in the order in which an answer gives them: evidence before the number


@dataclass(frozen=True)
class Judgement:
    """A rating on one principle; `rating` is None if the principle is not applicable."""

    rating: int | None
    reason: str
    quote: str


Judgements = dict[str, Judgement]  # by principle, in the order of PRINCIPLES


def answer_schema(order: Sequence[str], replies: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of an answer with the principles in this order; `replies` is their number if rated jointly."""
    rating = {"anyOf": [{"type": "integer", "enum": [*RATINGS]}, {"type": "string", "enum": [NOT_APPLICABLE]}]}
    text = {"type": "string"}
    principle = object_schema({"quote": text, "reason": text, "rating": rating})
    reply = object_schema(dict.fromkeys(order, principle))
    return reply if replies is None else object_schema({reply_key(place): reply for place in range(replies)})


def reply_key(place: int) -> str:
    """Return the name of a reply in prompt and answer; `place` counts from 0."""
    return f"reply_{place + 1}"


def read_answer(text: str, joint: bool = False) -> list[Judgements]:
    """Return the ratings of the single reply, or with `joint` of each reply in the order shown.

    Raises:
        Unreadable: if the answer (or its only code fence) is not exactly the requested JSON.
    """
    found = json_object(parsed_json(text), "the answer")
    if not joint:
        return [_judgements(found, "")]
    keys = [reply_key(place) for place in range(max(len(found), 1))]
    check_keys(found, keys, "")
    return [_judgements(json_object(found[key], key), f"{key}: ") for key in keys]


def _judgements(found: dict[str, Any], where: str) -> Judgements:
    check_keys(found, PRINCIPLES, where)
    return {name: _judgement(json_object(found[name], f"{where}{name}"), f"{where}{name}") for name in PRINCIPLES}


def _judgement(found: dict[str, Any], where: str) -> Judgement:
    check_keys(found, KEYS, f"{where}: ")
    for name in ("reason", "quote"):
        if not isinstance(found[name], str) or not found[name].strip():
            raise Unreadable(f"{where}: its {name} is not text")
        if not found[name].isascii() and any("\ud800" <= letter <= "\udfff" for letter in found[name]):
            raise Unreadable(f"{where}: its {name} holds half a character")
    return Judgement(_rating(found["rating"], where), found["reason"].strip(), found["quote"].strip())


def _rating(value: Any, where: str) -> int | None:
    if value == NOT_APPLICABLE:
        return None
    if isinstance(value, str):
        raise Unreadable(f"{where}: its rating is text")
    if type(value) is not int:  # True is an int in Python; 3.5 is between two levels
        raise Unreadable(f"{where}: its rating is not a whole number")
    if value not in RATINGS:
        raise Unreadable(f"{where}: its rating is not from {RATINGS[0]} to {RATINGS[-1]}")
    return value
