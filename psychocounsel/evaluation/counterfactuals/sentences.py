"""Splitting of a reply into sentences, without losing a character, and small edits of English sentences."""

import re
from collections.abc import Callable

_END = re.compile(r"[.!?…]+[\"'\u201d\u2019)\]*_]*\s+|\n+")
_ABBREVIATION = re.compile(r"(?:\b(?:Dr|Mr|Mrs|Ms|St|Prof|vs|e\.g|i\.e|a\.m|p\.m|approx|no)|\b[A-Z])\.\s+$")
_CLOSING = "\"'\u201d\u2019)]*_ \t\n"

# First words that lose their capital inside a sentence. Other first words may be names.
_INSIDE = """a an the this that these those it its it's that's there there's you your you're you've we we're our he she they their
my what what's when where who why how which while if so as and but or perhaps maybe sometimes after before because
since though although even for from in on at of with without not no yes one some many most all each every do does did
are is was were have has had can could would will shall should may might must is going being having"""
_SMALL = frozenset(_INSIDE.split())


def split(text: str) -> list[str]:
    """Return the sentences, each with the white space after it, so that they join to `text`.

    A line break ends a sentence, too.
    """
    pieces, start = list[str](), 0
    for end in _END.finditer(text):
        piece = text[start : end.end()]
        if not piece.strip() or ("\n" not in end.group() and _ABBREVIATION.search(piece)):
            continue
        pieces.append(piece)
        start = end.end()
    return [*pieces, text[start:]] if start < len(text) else pieces


def is_question(sentence: str) -> bool:
    return sentence.rstrip(_CLOSING).endswith("?")


def without(text: str, unwanted: Callable[[str], bool]) -> str | None:
    """Return the text without its `unwanted` sentences; None if none or all of them are unwanted."""
    sentences = split(text)
    kept = [sentence for sentence in sentences if not unwanted(sentence)]
    changed = "".join(kept).strip()
    return changed if changed and len(kept) < len(sentences) else None


def replaced(text: str, index: int, sentence: str) -> str:
    """Return the text with sentence number `index` replaced; the white space after it stays."""
    sentences = split(text)
    old = sentences[index]
    sentences[index] = sentence + old[len(old.rstrip()) :]
    return "".join(sentences)


def small_first(sentence: str) -> str:
    """Return the sentence as it follows "I wonder": with a small first letter, unless its first word may be a name."""
    first = re.match(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?", sentence)
    if first is None or first[0].lower().replace("\u2019", "'") not in _SMALL:
        return sentence
    return sentence[0].lower() + sentence[1:]


def edited(text: str, pattern: re.Pattern[str], other: Callable[[re.Match[str]], str | None]) -> str:
    """Return the text with each match replaced by `other(match)`; a match stays if `other` returns None.

    `pattern` and `other` see only straight apostrophes, but typographic ones in the text match as well. Text
    outside the matches stays as it is; replacements get typographic apostrophes if the text has any.
    """
    pieces, start = list[str](), 0
    for found in pattern.finditer(text.replace("\u2019", "'")):
        word = other(found)
        if word is not None:
            pieces += [text[start : found.start()], word.replace("'", "\u2019") if "\u2019" in text else word]
            start = found.end()
    return "".join(pieces) + text[start:]


def like(word: str, pattern: str) -> str:
    """Return `word` capitalised like `pattern`: all letters, the first one, or as given."""
    if pattern.isupper() and len(pattern) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if pattern[:1].isupper() else word
