"""Rules that change only the style of a reply: markdown, fillers, capitals, emoji, padding.

Each rule returns the changed reply, or None if it finds nothing to change.
"""

import re

from psychocounsel.evaluation.counterfactuals.sentences import split

_EMOJI = re.compile("\\s*[\u2600-\u27bf\U0001f300-\U0001faff]\ufe0f?")
_BULLET = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]+", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+", re.MULTILINE)
_EMPHASIS = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_FILLER = "Okay, so. "
_PADDING = (
    "That is what comes to my mind as I read what you have written here, and so I have put it into words for you. "
)
_FACE = "\U0001f642"


def markdown(text: str) -> str | None:
    """Remove bullets, headings and bold; if the text has none of them, turn its sentences into a list."""
    plain = _EMPHASIS.sub(r"\2", _HEADING.sub("", _BULLET.sub("", text)))
    if plain != text:
        return plain
    sentences = [sentence.strip() for sentence in split(text)]
    return "\n".join(f"- {sentence}" for sentence in sentences) if len(sentences) > 1 else None


def fillers(text: str) -> str | None:
    """Prepend filler words without meaning."""
    return None if text.startswith(_FILLER) else _FILLER + text


def capitals(text: str) -> str | None:
    """Convert all letters to lower case."""
    return text.lower() if text.lower() != text else None


def emoji(text: str) -> str | None:
    """Remove all emoji; if the text has none, add one after the first sentence."""
    if _EMOJI.search(text):
        return _EMOJI.sub("", text).strip() or None
    first, *rest = split(text)
    return f"{first.rstrip()} {_FACE}{first[len(first.rstrip()) :]}{''.join(rest)}"


def padding(text: str) -> str | None:
    """Insert a sentence without content before the last one, so that the ending stays."""
    *before, last = split(text)
    return "".join(before) + _PADDING + last if before else None
