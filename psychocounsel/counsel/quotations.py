"""Whether a quotation stands in a text."""

import re

ABSENT = "absent"  # the quotation where something is missing

_MARKS = str.maketrans("\u2018\u2019\u201c\u201d\u00ab\u00bb\u2013\u2014\u00a0", '\'\'""""-- ')


def stands_in(quote: str, reply: str) -> bool:
    """Whether a quotation stands in the reply, letter by letter but for case, spacing and the shape of marks and dashes.

    Parts around an ellipsis must stand there in this order. `absent` quotes nothing, which is always true.
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
