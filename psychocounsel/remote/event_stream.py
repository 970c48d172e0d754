"""Parser of server-sent events with JSON data (WHATWG HTML, section 9.2.6), in which chat servers stream their answers."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

_END = "[DONE]"  # the last event's data by OpenAI's convention


def is_event_stream(response: httpx.Response) -> bool:
    """Return True if the head of the answer announces server-sent events."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/event-stream"


def events_of(pieces: Iterable[bytes]) -> Iterator[Any]:
    """Yield the parsed data of each event as soon as its bytes arrive, until the event that marks the end.

    Raises:
        ValueError: for data that are not JSON.
    """
    data = list[str]()
    for line in _lines(pieces):
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            text, data = "\n".join(data), []
            if text.strip() == _END:
                return
            yield json.loads(text)
    if data and (text := "\n".join(data)).strip() != _END:  # a stream may end without the blank line
        yield json.loads(text)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", errors="replace")
    if rest:
        yield rest.decode("utf-8", errors="replace")
