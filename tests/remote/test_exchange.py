"""Server-sent events are parsed alike, however their bytes are cut into pieces."""

import httpx
import pytest

from psychocounsel.errors import hide_words
from psychocounsel.remote.exchange import events_of, reason_of_error

# Server-sent events are parsed alike, however their bytes are cut into pieces.

STREAM = ': hello\n\ndata: {"a": "ä"}\r\n\r\nevent: more\ndata: {"b":\ndata: 2}\n\ndata:[3]\n\n'.encode()
STREAM += b"data: [DONE]\n\ndata: 4\n\n"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_the_same_however_they_come(size: int) -> None:
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert list(events_of(pieces)) == [{"a": "ä"}, {"b": 2}, [3]]


def test_an_event_is_given_when_its_blank_line_has_come() -> None:
    came: list[bytes] = []

    def pieces() -> object:
        for piece in (b"data: 1\n", b"\n", b"data: 2"):
            came.append(piece)
            yield piece

    events = events_of(pieces())  # type: ignore[arg-type]
    assert next(events) == 1 and len(came) == 2
    assert list(events) == [2], "the last event needs no blank line"


def test_data_that_are_no_json() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        list(events_of([b"data: no\n\n"]))


# A server's message may quote a text; with confidential data it is hidden.


@pytest.fixture
def hidden() -> None:
    hide_words(True)


def test_an_errors_words_are_shown() -> None:
    assert reason_of_error(httpx.RemoteProtocolError("illegal status line: I told nobody"), 1) == (
        "illegal status line: I told nobody"
    )


@pytest.mark.usefixtures("hidden")
def test_of_confidential_data_they_are_not() -> None:
    assert "I told" not in reason_of_error(httpx.RemoteProtocolError("illegal status line: I told nobody"), 1)
    assert reason_of_error(httpx.ConnectError("[Errno 111] Connection refused"), 1) == "connection refused"
    assert reason_of_error(httpx.ReadError(""), 1) == "ReadError"
