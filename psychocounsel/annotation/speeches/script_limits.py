"""Detects the script of a speech, which decides its length limits, and its language."""

import re
from functools import cache
from typing import Any

from psychocounsel.data.selection.shingles import CJK

_CJK = re.compile(f"[{CJK}]")
_LETTER = re.compile(r"[^\W\d_]")


def script_of(text: str) -> str:
    """`cjk` where half of the letters or more are Chinese, Japanese or Korean characters, else `default`."""
    characters = len(_CJK.findall(text))
    return "cjk" if characters and 2 * characters >= len(_LETTER.findall(text)) else "default"


def language_of(text: str) -> str:
    """The likeliest language of a text (ISO 639-1), by py3langid."""
    return str(_identifier().classify(text)[0])


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
