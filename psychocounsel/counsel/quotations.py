"""Checks that a quotation occurs in a text."""

import re

ABSENT = "absent"  # the quotation that says that something is missing from the reply

_MARKS = str.maketrans("\u2018\u2019\u201c\u201d\u00ab\u00bb\u2013\u2014\u00a0", '\'\'""""-- ')


def stands_in(quote: str, reply: str) -> bool:
    """Return True if a quotation occurs in the reply, ignoring case, spacing and the shape of quotation marks and dashes.

    The parts around an ellipsis must occur in the same order. The quotation `absent` is always accepted.
    """
    if _plain(quote) == ABSENT:
        return True
    place, text = 0, _plain(reply)
    parts = [part for each in re.split(r"\.\.\.|\u2026", quote) if (part := _plain(each).strip(" \"'"))]
    for part in parts:
        found = text.find(part.rstrip(".,;:"), place)
        if found < 0:
            return False
        place = found + len(part)
    return bool(parts)


def _plain(text: str) -> str:
    return " ".join(text.translate(_MARKS).casefold().split()).strip("\"' .")
