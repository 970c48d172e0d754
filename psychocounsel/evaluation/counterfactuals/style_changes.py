"""The same reply in another dress: markdown, fillers, capitals, emoji, padding."""

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
    """Without its bullets, headings and bold words; a text of several sentences that has none becomes a list."""
    plain = _EMPHASIS.sub(r"\2", _HEADING.sub("", _BULLET.sub("", text)))
    if plain != text:
        return plain
    sentences = [sentence.strip() for sentence in split(text)]
    return "\n".join(f"- {sentence}" for sentence in sentences) if len(sentences) > 1 else None


def fillers(text: str) -> str | None:
    """With words before it that say nothing."""
    return None if text.startswith(_FILLER) else _FILLER + text


def capitals(text: str) -> str | None:
    """In small letters alone."""
    return text.lower() if text.lower() != text else None


def emoji(text: str) -> str | None:
    """Without its emoji; with one after the first sentence where there is none."""
    if _EMOJI.search(text):
        return _EMOJI.sub("", text).strip() or None
    first, *rest = split(text)
    return f"{first.rstrip()} {_FACE}{first[len(first.rstrip()) :]}{''.join(rest)}"


def padding(text: str) -> str | None:
    """Longer by a sentence without content, before the last one, so that the ending stays."""
    *before, last = split(text)
    return "".join(before) + _PADDING + last if before else None
