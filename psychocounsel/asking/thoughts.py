"""What reasoning models think before their answer is no part of it."""

import re

_OPENED = re.compile(r"\A\s*<think(?:ing)?>", re.IGNORECASE)
_CLOSED = re.compile(r"</think(?:ing)?>\s*", re.IGNORECASE)
_OPENED_LAST = re.compile(r"<think(?:ing)?>\s*\Z", re.IGNORECASE)


def without_thoughts(text: str, prompt: str = "") -> str:
    """`text` after its thoughts; empty if they never end.

    The opening tag may be missing, because many chat templates put it at the end of the prompt. A caller that knows the
    rendered `prompt` gives it: thoughts are then known even where the closing tag is missing, too. JSON is an answer from its
    first letter, whatever it quotes.
    """
    if text.lstrip().startswith("{"):
        return text
    if closed := _CLOSED.search(text):
        return text[closed.end() :]
    return "" if _OPENED.match(text) or _OPENED_LAST.search(prompt) else text


def shown_so_far(text: str, prompt: str = "") -> str:
    """As `without_thoughts`, of a text that is still being written; empty while it may become the opening tag."""
    return "" if "<thinking>".startswith(text.strip().lower()) else without_thoughts(text, prompt)
