"""Detects the script of a speech, which decides its length limits."""

import re

from psychocounsel.data.selection.shingles import CJK

_CJK = re.compile(f"[{CJK}]")
_LETTER = re.compile(r"[^\W\d_]")


def script_of(text: str) -> str:
    """Return `cjk` if at least half of the letters are Chinese, Japanese or Korean characters, otherwise `default`."""
    characters = len(_CJK.findall(text))
    return "cjk" if characters and 2 * characters >= len(_LETTER.findall(text)) else "default"
