"""Texts of servers: no key, no text of the request and no control character reaches an answer, a message or a log."""

import json
import socket
import threading
from base64 import b32encode, b64encode, b85encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from psychocounsel.errors import UserError
from psychocounsel.remote.client import Client
from psychocounsel.remote.received import joined, received, shown
from tests.support.answering import no_proxy

__all__ = ["no_proxy"]

KEY = "sk-proj-0123456789abcdef0123"
SPEECH = "Ich weiß nicht weiter,\nmein Mann schreit\njeden Abend."
PAYLOAD = {"model": "served", "messages": [{"role": "user", "content": SPEECH}, {"role": "user", "content": "I cut"}]}

QUOTES = {
    "the key": f"bad key {KEY}",
    "a part of the key": f"bad key {KEY[:14]}",
    "the key, spaced": f"bad key {' '.join(KEY)}",
    "the key, with dots": f"bad key {'.'.join(KEY)}",
    "the key, in lines": "bad key " + "\n".join(KEY),
    "the key, reversed": f"bad key {KEY[::-1]}",
    "the key, reversed and spaced": f"bad key {' '.join(KEY[::-1])}",
    "the key, in capitals": f"bad key {KEY.upper()}",
    "the key, in base64": f"bad key {b64encode(KEY.encode()).decode()}",
    "the key, in base64 and spaced": f"bad key {' '.join(b64encode(KEY.encode()).decode())}",
    "a header in base64": f"bad header {b64encode(b'Bearer ' + KEY.encode() + b' it was').decode()}",
    "another header in base64": f"bad header {urlsafe_b64encode(b'a: ' + KEY.encode()).decode()}",
    "the key, reversed in base64": f"bad key {b64encode(KEY[::-1].encode()).decode()}",
    "the key, in hex": f"bad key {KEY.encode().hex()}",
    "the key, in hex with colons": f"bad key {KEY.encode().hex(':').upper()}",
    "the key, in hex with signs": "bad key " + " ".join(f"0x{byte:02x}" for byte in KEY.encode()),
    "the key, as in C": "bad key " + "".join(f"\\x{byte:02x}" for byte in KEY.encode()),
    "the key, as in an address": "bad key " + "".join(f"%{byte:02X}" for byte in KEY.encode()),
    "the key, as in a page": "bad key " + "".join(f"&#{byte};" for byte in KEY.encode()),
    "the key, as in JSON": "bad key " + "".join(f"\\u{byte:04x}" for byte in KEY.encode()),
    "a prompt": f"cannot parse: {SPEECH}",
    "a prompt, escaped": f"cannot parse: {json.dumps(SPEECH)}",
    "a prompt for a page": "cannot parse: Ich wei&szlig; nicht weiter, mein Mann schreit",
    "a prompt in one line": f"cannot parse: {' '.join(SPEECH.split())}",
    "a short prompt": "cannot parse: I cut",
}


@pytest.mark.parametrize("message", QUOTES.values(), ids=QUOTES)
def test_a_message_that_quotes_the_key_or_the_request_is_not_shown(message: str) -> None:
    assert shown(message, PAYLOAD, KEY) == ""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("only 2048\n tokens fit", "only 2048 tokens fit"),
        ("behind\u202e it\x1b[2J \u2066all\x9b\ud800", "behind\ufffd it\ufffd[2J \ufffdall\ufffd\ufffd"),
        ("upstream: Bearer abcdefghijklmnopqrst", "upstream: [key]"),
        ("upstream: sk-ant-0000000000000000 is bad", "upstream: [key] is bad"),
        ("x" * 10_000_000, "x" * 200),
    ],
    ids=["lines", "controls", "a bearer", "another key", "endless"],
)
def test_other_messages_are_shown_in_one_short_line(message: str, line: str) -> None:
    assert shown(message, PAYLOAD, KEY) == line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (f"bad key {b32encode(KEY.encode()).decode()}", "bad key [key]"),
        (f"bad key {b85encode(KEY.encode()).hex()}!", "bad key [key]!"),
        ("the model `meta-llama/Llama-3.2-3B-Instruct` does not exist", None),
        ("at most 131072 tokens, and you requested 200000", None),
        ("https://api.example.com/v1/models/list: not found", None),
    ],
    ids=["base32", "base85 in hex", "a model", "numbers", "an address"],
)
def test_a_long_word_that_may_be_a_key_in_another_code_is_left_out(message: str, line: str | None) -> None:
    assert shown(message, PAYLOAD, KEY) == (message if line is None else line)


def test_answers_keep_their_texts_without_the_key_and_characters_that_control_a_terminal() -> None:
    answer = {
        "a": [f"it is {KEY}", "one\r\ntwo\ttabs \u200dand \u200fmarks", 1.5, None, True],
        "b\u202e": {"c": "\ud83d"},
    }
    assert received(answer, KEY) == {
        "a": ["it is [key]", "one\ntwo\ttabs \u200dand \u200fmarks", 1.5, None, True],
        "b\ufffd": {"c": "\ufffd"},
    }


@pytest.mark.parametrize("size", [1, 3, len(KEY) - 1, len(KEY), 50])
def test_a_key_that_is_cut_over_events_is_never_shown(size: int) -> None:
    text = f"I am skeptical. Your key is {KEY}, s"
    cuts = [text[:end] for end in range(0, len(text) + size, size)]
    states = [joined(cut, KEY, is_complete=False) for cut in cuts]
    assert all(cut.startswith(state) or "[key]" in state for cut, state in zip(cuts, states, strict=True))
    assert not any(KEY[:4] in state for state in states)
    assert joined(text, KEY, is_complete=True) == "I am skeptical. Your key is [key], s"
    assert joined("my s", None, is_complete=False) == "my s"


# The ways in which a server's text can arrive


def _event(content: Any) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: " + json.dumps(content).encode() + b"\n\n"


def _status(number: int, content: Any) -> bytes:
    body = json.dumps(content).encode()
    return b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)


WAYS: dict[str, Callable[[str], bytes]] = {
    "an error in a stream": lambda text: _event({"error": {"message": text}}),
    "an error in a stream, as text": lambda text: _event({"error": text}),
    "a refusal": lambda text: _status(403, {"detail": text}),
    "a passing status": lambda text: _status(503, {"error": {"message": text}}),
    "a status line": lambda text: f"HTTP/1.1 {text}\r\n\r\n".encode(errors="replace"),
    "a header": lambda text: f"HTTP/1.1 200 OK\r\nBad {text}\r\n\r\n".encode(errors="replace"),
    "a name of an encoding": lambda text: f"HTTP/1.1 200 OK\r\nContent-Encoding: {text}\r\n\r\n".encode(
        errors="replace"
    ),
    "text instead of JSON": lambda text: f"HTTP/1.1 200 OK\r\n\r\n{text}".encode(errors="replace"),
}


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Serve the same bytes to every connection; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 20)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_no_way_brings_a_key_a_prompt_or_a_control_character(
    way: Callable[[str], bytes], streams: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    for text in (
        f"bad key {KEY}",
        "cannot parse: Ich wei\u00df nicht weiter, mein Mann schreit",
        "\x1b[2Jnever\u202e so",
    ):
        with answering(way(text)) as address:
            client = Client(
                [address, "http://127.0.0.1:9"], "judge", key_variable="MY_KEY", retries=0, timeout_seconds=5
            )
            client.addresses.set_aside("http://127.0.0.1:9", "it is not there")
            try:
                if streams:
                    said = json.dumps(list(client.events("/x", PAYLOAD)), ensure_ascii=False)
                else:
                    said = json.dumps(
                        list(client.answers("/x", [PAYLOAD], lambda answer, _: answer)), ensure_ascii=False
                    )
            except UserError as error:
                said = str(error)
            client.close()
        out = capsys.readouterr()
        said += out.err + out.out
        assert KEY[:12] not in said and "weiter" not in said and not set(said) & {"\x1b", "\u202e"}, said
