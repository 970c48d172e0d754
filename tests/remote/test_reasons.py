"""A server's message may quote a text; with confidential data it is hidden."""

from collections.abc import Iterator

import httpx
import pytest

from psychocounsel.errors import hide_words
from psychocounsel.remote.reasons import of_error


@pytest.fixture
def hidden() -> Iterator[None]:
    hide_words(True)
    yield
    hide_words(False)


def test_an_errors_words_are_shown() -> None:
    assert of_error(httpx.RemoteProtocolError("illegal status line: I told nobody"), 1) == (
        "illegal status line: I told nobody"
    )


@pytest.mark.usefixtures("hidden")
def test_of_confidential_data_they_are_not() -> None:
    assert "I told" not in of_error(httpx.RemoteProtocolError("illegal status line: I told nobody"), 1)
    assert of_error(httpx.ConnectError("[Errno 111] Connection refused"), 1) == "connection refused"
    assert of_error(httpx.ReadError(""), 1) == "ReadError"
