"""Words of a reply that the first reply lacks."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

_WORDS = re.compile(r"\s+|[^\s]+")
_ALIKE = 0.2  # below this share of common words, nearly everything would be marked


def marked(first: str, other: str) -> list[tuple[str, bool]] | None:
    """Return `other` in pieces, each with True if it differs from `first`; None if almost no word is shared."""
    one, two = first.split(), _WORDS.findall(other)
    words = [(place, piece) for place, piece in enumerate(two) if not piece.isspace()]
    matcher = SequenceMatcher(None, one, [piece for _, piece in words], autojunk=False)
    if matcher.ratio() < _ALIKE:
        return None
    same = {
        words[place][0] for block in matcher.get_matching_blocks() for place in range(block.b, block.b + block.size)
    }
    return list(_runs(two, same))


def _runs(pieces: list[str], same: set[int]) -> Iterator[tuple[str, bool]]:
    """Yield neighbouring words joined if both differ or neither does. Space is marked only between differing words."""
    text, differs, space = "", False, ""
    for place, piece in enumerate(pieces):
        if piece.isspace():
            space = piece
            continue
        if (place not in same) == differs:
            text, space = text + space + piece, ""
            continue
        if differs:
            yield text, True
            text = space + piece
        else:
            if text or space:
                yield text + space, False
            text = piece
        differs, space = not differs, ""
    if text:
        yield text, differs
    if space:
        yield space, False
