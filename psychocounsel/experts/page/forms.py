"""Forms sent by browsers: their size is limited, and every field is checked before anything is stored."""

import math
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from psychocounsel.errors import printable

MOST_BYTES = 64_000  # per form
MOST_CHARACTERS = 4_000  # per comment or report
_MOST_FIELDS = 100
_MOST_SECONDS = 12 * 3600.0
_NOT_OFFERED = "The form has a value that this page does not offer."

Form = dict[str, str]


class BadForm(Exception):
    """The request is not a form of this page. The message says why and quotes nothing."""


def read_form(body: bytes) -> Form:
    """Return the fields of a form in the browsers' encoding.

    Raises:
        BadForm: if the encoding is another, or if there are too many fields or a duplicate field.
    """
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict") if text else []
    except ValueError as error:
        raise BadForm("The form cannot be read.") from error
    form = dict(pairs)
    if len(form) < len(pairs):
        raise BadForm("The form has a field twice.")
    return form


def refuse_other_fields(form: Form, names: set[str]) -> None:
    """Refuse fields other than `names`.

    Raises:
        BadForm: if there is another field.
    """
    if form.keys() - names:
        raise BadForm("The form has a field that this page does not know.")


def text_of(form: Mapping[str, str], name: str) -> str:
    """Return a typed text, without characters that control a terminal or reverse its lines.

    Raises:
        BadForm: if the text is too long.
    """
    text = form.get(name, "").replace("\r\n", "\n").strip()
    if len(text) > MOST_CHARACTERS:
        raise BadForm(f"A text may have at most {MOST_CHARACTERS:,} characters; this one has {len(text):,}.")
    return printable(text).replace("\ufffd", "")  # joiners and hard spaces of many languages stay


def one_of(form: Form, name: str, words: Collection[str], otherwise: str) -> str:
    """Return the value of a field if it is one of `words`.

    Raises:
        BadForm: with the message `otherwise`, if the value is missing or not one of `words`.
    """
    if (value := form.get(name, "")) not in words:
        raise BadForm(otherwise)
    return value


def word_of(form: Form, name: str, words: Collection[str]) -> str:
    """Return the value of a field that browsers fill only with `words`.

    Raises:
        BadForm: if the value is missing or not one of `words`.
    """
    return one_of(form, name, words, _NOT_OFFERED)


def seconds_of(form: Form, elapsed: float | None) -> float:
    """Return the seconds that the page measured, at most `elapsed` + 1 and 12 hours.

    Without a measurement, the result is `elapsed`, with the same limits, or 0 if `elapsed` is None.

    Raises:
        BadForm: if the value is not a number.
    """
    text = form.get("seconds", "")
    try:
        measured = float(text if text.isascii() and "_" not in text else "") if text else math.nan
    except ValueError as error:
        raise BadForm(_NOT_OFFERED) from error
    most = _MOST_SECONDS if elapsed is None else min(elapsed + 1, _MOST_SECONDS)
    if math.isnan(measured):
        measured = elapsed if elapsed is not None else 0.0
    return round(min(max(measured, 0.0), most), 1)
