"""Cues of a reply: properties of its surface that can be computed without reading the client's speech.

A cue maps the text of a reply to a number; `CUES` lists all of them by name. `psychocounsel audit` measures how often the
chosen reply of a pair has the larger (or smaller) value. `data.balance` weights pairs so that a cue predicts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from psychocounsel.errors import UserError

if TYPE_CHECKING:
    import numpy as np


_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_SENTENCE = re.compile(r"[.!?…]+(?=[\s\"'\u201d\u2019)*_]|$)")
_CLOSING = " \t\r\n\"'\u201d\u2019»)]*_\u300d\u300f\uff09"  # characters allowed after the last mark of a sentence
# Marks of ASCII, full-width and Arabic text.
_QUESTION, _EXCLAMATION = "?\uff1f\u061f", "!\uff01"
_COMMA, _COLON = ",\uff0c\u3001\u060c", ":;\uff1a\uff1b\u061b"
_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
_BULLET = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]+\S", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+\S|^[ \t]*\*\*[^*\n]+\*\*:?[ \t]*$", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")

_FIRST_PERSON = frozenset(("i", "me", "my", "mine", "myself", "i'm", "i've", "i'd", "i'll"))
_SECOND_PERSON = frozenset(("you", "your", "yours", "yourself", "you're", "you've", "you'd", "you'll"))
_CONTRACTED = ("'s", "'t", "'re", "'ve", "'ll", "'d", "'m")


@lru_cache(maxsize=1)  # several cues use the words of the same text, one after another
def _words(text: str) -> list[str]:
    """Return the words of a text in lower case, with straight apostrophes."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def _matches(pattern: re.Pattern[str], text: str) -> float:
    return float(len(pattern.findall(text)))


def _characters(wanted: str, text: str) -> float:
    return float(sum(map(text.count, wanted)))


def _sentences(text: str) -> float:
    return float(max(len(_SENTENCE.findall(text)), 1))


def _letters_per_word(text: str) -> float:
    words = _words(text)
    return sum(map(len, words)) / len(words) if words else 0.0


def _variety(text: str) -> float:
    """Return the number of distinct words divided by the root of the number of words (Guiraud 1954)."""
    words = _words(text)
    return len(set(words)) / len(words) ** 0.5 if words else 0.0


def _share(wanted: frozenset[str], text: str) -> float:
    words = _words(text)
    return sum(word in wanted for word in words) / len(words) if words else 0.0


def _emoji(text: str) -> float:
    return 0.0 if text.isascii() else float(len(_EMOJI.findall(text)))


def _contractions(text: str) -> float:
    return float(sum(word.endswith(_CONTRACTED) for word in _words(text))) if "'" in text or "\u2019" in text else 0.0


def _starts(wanted: tuple[str, ...], text: str) -> float:
    head = " ".join(_words(text)[:3]) + " "
    return float(head.startswith(tuple(f"{start} " for start in wanted)))


CUES: dict[str, Callable[[str], float]] = {
    "length": lambda text: float(len(text)),  # characters
    "words": lambda text: float(len(_words(text))),
    "sentences": _sentences,
    "sentence_length": lambda text: len(_words(text)) / _sentences(text),
    "word_length": _letters_per_word,
    "variety": _variety,
    "paragraphs": lambda text: float(sum(bool(line.strip()) for line in text.splitlines())),
    "ending": lambda text: float(text.rstrip(_CLOSING).endswith(tuple(_QUESTION))),  # 1 if it ends with a question mark
    "questions": partial(_characters, _QUESTION),
    "exclamations": partial(_characters, _EXCLAMATION),
    "commas": partial(_characters, _COMMA),
    "colons": partial(_characters, _COLON),
    "dashes": partial(_characters, "\u2013\u2014"),
    "quotes": partial(_characters, '"\u201c\u201d«»'),
    "brackets": partial(_characters, "()[]"),
    "ellipses": partial(_matches, re.compile(r"…|\.\.\.")),
    "digits": partial(_matches, re.compile(r"\d")),
    "capitals": partial(_matches, re.compile(r"\b[A-Z]{2,}\b")),  # words of two or more capital letters
    "emoji": _emoji,
    "contractions": _contractions,
    "bullets": partial(_matches, _BULLET),
    "headings": partial(_matches, _HEADING),
    "bold": partial(_matches, _BOLD),
    "first_person": partial(_share, _FIRST_PERSON),
    "second_person": partial(_share, _SECOND_PERSON),
    "starts_i": partial(_starts, ("i", "i'm", "i've", "i'd", "i'll")),
    "starts_you": partial(_starts, ("you", "your", "you're", "you've", "you'd")),
    "starts_it": partial(_starts, ("it", "it's", "that", "that's", "this")),
    "starts_sorry": partial(_starts, ("i'm sorry", "i am sorry", "i'm so sorry", "sorry")),
    "starts_thanks": partial(_starts, ("thank you", "thanks")),
}


def cue_values(texts: Sequence[str], names: Sequence[str] | None = None) -> np.ndarray:
    """Return the values of cues (default: all, in the order of `CUES`), float64[texts, cues].

    Raises:
        UserError: if a name is not a cue.
    """
    names = list(CUES) if names is None else names
    for name in names:
        if name not in CUES:
            raise UserError(f"{name!r} is not a cue; the cues are {', '.join(CUES)}")
    import numpy as np  # imported here because callers that only check names do not need it

    return np.array([[CUES[name](text) for name in names] for text in texts], np.float64).reshape(
        len(texts), len(names)
    )
