"""Removes the thoughts that reasoning models write before their answer."""

import re

_OPENED = re.compile(r"\A\s*<think(?:ing)?>", re.IGNORECASE)
_CLOSED = re.compile(r"</think(?:ing)?>\s*", re.IGNORECASE)
_OPENED_LAST = re.compile(r"<think(?:ing)?>\s*\Z", re.IGNORECASE)


def without_thoughts(text: str, prompt: str = "") -> str:
    """Return `text` without the thoughts at its beginning; empty if the thoughts never end.

    The opening tag may be missing from the text, because many chat templates put it at the end of the prompt. Given the
    rendered `prompt`, thoughts are recognised even if the closing tag is missing as well. A text that begins with `{` is JSON
    and is returned whole, because tags inside it are quotations.
    """
    if text.lstrip().startswith("{"):
        return text
    if closed := _CLOSED.search(text):
        return text[closed.end() :]
    return "" if _OPENED.match(text) or _OPENED_LAST.search(prompt) else text


def shown_so_far(text: str, prompt: str = "") -> str:
    """Return an unfinished text without its thoughts; empty while the text could be the start of the opening tag."""
    return "" if "<thinking>".startswith(text.strip().lower()) else without_thoughts(text, prompt)
