"""The language of a text (ISO 639-1), by py3langid."""

from functools import cache
from typing import Any

_SURE = 0.9  # probability from which a language counts as known
_LETTERS = 20  # fewer tell too little, whatever the probability


def language_of(text: str) -> str:
    """The likeliest language of a text."""
    return str(_identifier(False).classify(text)[0])


def sure_language_of(text: str) -> str | None:
    """The language of a text; None if it has fewer than 20 letters, or no language has a probability of 0.9.

    A character of Chinese, Japanese or Korean counts as three letters, as the bytes do that py3langid reads.
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
