"""What browsers send: bounded, and checked word for word before anything is noted."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from psychocounsel.counsel.principles import ANSWERS, PRINCIPLES, RATINGS, SAFETY_QUESTIONS
from psychocounsel.experts.agreement.answers_table import CHOICES, SIDES

MOST_BYTES = 64_000  # of a form
MOST_CHARACTERS = 4_000  # of a comment or report
_MOST_FIELDS = 100
_MOST_SECONDS = 12 * 3600.0

Form = dict[str, str]


class BadForm(Exception):
    """What was sent is no form of this page; the message says why, and quotes nothing."""


def read_form(body: bytes) -> Form:
    """The fields of a form in the encoding of browsers.

    Raises:
        BadForm: for another encoding, too many fields, or a field that stands there twice.
    """
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict") if text else []
    except ValueError as error:
        raise BadForm("The form cannot be read.") from error
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadForm("A field stands twice in the form.")
    return found


def only(form: Form, names: set[str]) -> None:
    """Refuse other fields than `names`.

    Raises:
        BadForm: if there is one.
    """
    if form.keys() - names:
        raise BadForm("The form has a field that this page does not know.")


def answer_of(form: Form, elapsed: float | None) -> dict[str, Any]:
    """The answer to an item: `choice`, `ratings`, `safety`, `comment`, `seconds`.

    `elapsed` are the seconds since the server showed the item, None if it does not know. The page measures how long it was
    visible; that is taken as far as it is possible.

    Raises:
        BadForm: for a value that the page does not offer.
    """
    rating_fields = {f"rating.{side}.{name}": (side, name) for side in SIDES for name in PRINCIPLES}
    safety_fields = {f"safety.{side}.{name}": (side, name) for side in SIDES for name in SAFETY_QUESTIONS}
    only(form, {"choice", "comment", "seconds", *rating_fields, *safety_fields})
    choice = _one_of(form.get("choice", ""), CHOICES, "Choose A, B, tie, or both harmful.")
    ratings = _by_side(form, rating_fields, {str(each): each for each in RATINGS})
    safety = _by_side(form, safety_fields, {each: each for each in ANSWERS})
    seconds = _seconds(form.get("seconds", ""), elapsed)
    return {
        "choice": choice,
        "ratings": ratings,
        "safety": safety,
        "comment": text_of(form, "comment"),
        "seconds": seconds,
    }


def text_of(form: Mapping[str, str], name: str) -> str:
    """A text that somebody typed, without the control characters that a keyboard cannot make.

    Raises:
        BadForm: if it is too long.
    """
    text = form.get(name, "").replace("\r\n", "\n").strip()
    if len(text) > MOST_CHARACTERS:
        raise BadForm(f"A text may have {MOST_CHARACTERS:,} characters; this one has {len(text):,}.")
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def _one_of(value: str, choices: tuple[str, ...], otherwise: str) -> str:
    if value not in choices:
        raise BadForm(otherwise)
    return value


def _by_side(form: Form, fields: Mapping[str, tuple[str, str]], values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for field, (side, name) in fields.items():
        if value := form.get(field, ""):
            if value not in values:
                raise BadForm("The form has a value that this page does not offer.")
            found.setdefault(side, {})[name] = values[value]
    return found


def _seconds(text: str, elapsed: float | None) -> float:
    try:
        measured = float(text) if text else math.nan
    except ValueError as error:
        raise BadForm("The form has a value that this page does not offer.") from error
    most = _MOST_SECONDS if elapsed is None else min(elapsed + 1, _MOST_SECONDS)
    if math.isnan(measured):
        measured = elapsed if elapsed is not None else 0.0
    return round(min(max(measured, 0.0), most), 1)
