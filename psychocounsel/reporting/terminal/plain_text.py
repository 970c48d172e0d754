"""Text for terminals of any encoding: signs that one cannot show are written with those of ASCII."""

import sys

_ASCII = str.maketrans(
    {"─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┬": "+", "┴": "+"}
)
_ASCII |= str.maketrans({"┼": "+", "±": "+-", "…": "..."})


def printable(text: str, encoding: str | None = None) -> str:
    """The text as the encoding, that of stdout without one, can show it."""
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "replace").decode()
    return text
