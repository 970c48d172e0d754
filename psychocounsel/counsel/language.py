"""Detects the language of a text (ISO 639-1) with py3langid."""

from functools import cache
from typing import Any

_SURE = 0.9  # probability from which a language counts as certain
_LETTERS = 20  # with fewer letters, probabilities are not reliable


def language_of(text: str) -> str:
    """Return the most likely language of a text."""
    return str(_identifier(False).classify(text)[0])


def sure_language_of(text: str) -> str | None:
    """Return the language of a text, or None if it has fewer than 20 letters or no language reaches a probability of 0.9.

    A Chinese, Japanese or Korean character counts as three letters, because py3langid reads bytes.
    """
    letters = sum(3 if each >= "\u3040" else 1 for each in text if each.isalpha())
    if letters < _LETTERS:
        return None
    language, probability = _identifier(True).classify(text)
    return str(language) if probability >= _SURE else None


@cache
def _identifier(probabilities: bool) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=probabilities)
