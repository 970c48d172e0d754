"""What browsers send: bounded, and checked word for word before anything is noted."""

import math
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

MOST_BYTES = 64_000  # of a form
MOST_CHARACTERS = 4_000  # of a comment or report
_MOST_FIELDS = 100
_MOST_SECONDS = 12 * 3600.0
_NOT_OFFERED = "The form has a value that this page does not offer."

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


def text_of(form: Mapping[str, str], name: str) -> str:
    """A text that somebody typed, without the control characters that a keyboard cannot make.

    Raises:
        BadForm: if it is too long.
    """
    text = form.get(name, "").replace("\r\n", "\n").strip()
    if len(text) > MOST_CHARACTERS:
        raise BadForm(f"A text may have {MOST_CHARACTERS:,} characters; this one has {len(text):,}.")
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def one_of(form: Form, name: str, words: Collection[str], otherwise: str) -> str:
    """The value of a field, which is one of `words`.

    Raises:
        BadForm: saying `otherwise`, if it is none of them or missing.
    """
    if (value := form.get(name, "")) not in words:
        raise BadForm(otherwise)
    return value


def word_of(form: Form, name: str, words: Collection[str]) -> str:
    """As `one_of`, of a field that browsers cannot fill with anything else."""
    return one_of(form, name, words, _NOT_OFFERED)


def seconds_of(form: Form, elapsed: float | None) -> float:
    """The seconds that the page measured, at most a little more than `elapsed`.

    Raises:
        BadForm: if they are no number.
    """
    text = form.get("seconds", "")
    try:
        measured = float(text) if text else math.nan
    except ValueError as error:
        raise BadForm(_NOT_OFFERED) from error
    most = _MOST_SECONDS if elapsed is None else min(elapsed + 1, _MOST_SECONDS)
    if math.isnan(measured):
        measured = elapsed if elapsed is not None else 0.0
    return round(min(max(measured, 0.0), most), 1)
