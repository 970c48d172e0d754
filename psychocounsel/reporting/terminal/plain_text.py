"""Text for terminals of any encoding: characters outside the encoding are replaced by ASCII."""

import sys

_ASCII = str.maketrans(
    {"─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┬": "+", "┴": "+"}
)
_ASCII |= str.maketrans({"┼": "+", "±": "+-", "…": "..."})


def printable(text: str, encoding: str | None = None) -> str:
    """Return the text in characters that `encoding` can show. Default: the encoding of stdout."""
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "replace").decode()
    return text
