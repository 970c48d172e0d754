"""Texts that come from a server, as this process may use and show them; `Exchange` passes all of them through here."""

import re
from base64 import b64encode
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import unquote

from psychocounsel.errors import printable, words
from psychocounsel.remote.server_access import SECRET_FORMS

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\[nrt]")
_HEX_SIGN = re.compile(r"0x|\\x", re.IGNORECASE)
_KEY = "[key]"
_LONGEST_MESSAGE = 200  # characters
_QUOTED = 16  # letters and digits; a message that repeats this many of the request is hidden
_QUOTED_OF_KEY = 8  # characters
_CODED = re.compile(r"(?=[\w+=-]*\d)(?=[\w+=-]*[A-Za-z])[\w+=-]{24,}", re.ASCII)  # a long word of letters and digits


def received(answer: Any, secret: str | None) -> Any:
    """Return a parsed answer (JSON) whose texts are printable and do not hold `secret`, the key of this client."""
    if isinstance(answer, str):
        return printable(answer.replace(secret, _KEY) if secret else answer)
    if isinstance(answer, list):
        return [received(part, secret) for part in answer]
    if isinstance(answer, dict):
        return {received(name, secret): received(part, secret) for name, part in answer.items()}
    return answer


def joined(text: str, secret: str | None, is_complete: bool) -> str:
    """Return a text that came in several events, like `received`; an incomplete one without an ending that may begin the key."""
    text = str(received(text, secret))
    begins = () if is_complete or not secret else (secret[:size] for size in range(len(secret) - 1, 0, -1))
    return text.removesuffix(next(filter(text.endswith, begins), ""))


def message_of(content: Any) -> str:
    """Return the message in an error that a server sent as JSON, by the names that servers give it; "" without one."""
    for name in ("error", "detail", "message"):
        content = content.get(name, content) if isinstance(content, dict) else content
    return content if isinstance(content, str) else ""


def shown(message: str, payload: Any = None, secret: str | None = None) -> str:
    """Return a server's message for people: one line without keys; "" if it quotes the request `payload` or the key."""
    line = " ".join(printable(message[: 4 * _LONGEST_MESSAGE]).split())
    if _quotes_key(line, secret) or _quotes(line, payload):
        return ""
    line = SECRET_FORMS.sub(_KEY, line)
    line = _CODED.sub(_KEY, line) if secret else line  # whatever the code
    return words(line[:_LONGEST_MESSAGE]) if line else ""


def _quotes_key(line: str, secret: str | None) -> bool:
    """Return True if a line holds a part of the key: plain, spaced, reversed, or escaped, in hexadecimal or in base64."""
    if not secret:
        return False
    plain = _letters(_unescaped(line)) + " " + _letters(_HEX_SIGN.sub("", line))
    for form in filter(None, map(_letters, (secret, *_codes(secret)))):
        for text in (form, form[::-1]):
            size = min(_QUOTED_OF_KEY, len(text))
            if any(text[start : start + size] in plain for start in range(len(text) - size + 1)):
                return True
    return secret in line  # a key without letters and digits


def _codes(secret: str) -> Iterator[str]:
    """Yield the codes of a key in hexadecimal and in base64, where it may follow any number of other letters."""
    yield secret.encode().hex()
    for turned in (secret, secret[::-1]):
        for before in range(3):
            code = b64encode(b"\0" * before + turned.encode()).decode().rstrip("=")
            yield code[4 * (before > 0) : -1]  # the ends also hold bits of the neighbours


def _unescaped(line: str) -> str:
    return unquote(unescape(_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", line)))


def _quotes(line: str, payload: Any) -> bool:
    """Return True if a line repeats a text of the payload, however it is escaped or broken into lines."""
    plain = _letters(_unescaped(line))
    leaves = list(_leaves(payload))
    request = "".join(map(_letters, leaves))
    if any(plain[start : start + _QUOTED] in request for start in range(len(plain) - _QUOTED + 1)):
        return True
    texts = [_letters(leaf) for leaf in leaves if len(leaf.split()) > 1]  # a short message of a client, not a name
    return any(text and text in plain for text in texts)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts and numbers in a JSON value."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _leaves(part)
    if isinstance(value, str | int | float):
        yield str(value)
