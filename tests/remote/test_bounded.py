"""Bounds on the size and time of a server's answer, over real sockets: endless streams and slow drips are cut off."""

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from psychocounsel.errors import UserError
from psychocounsel.remote.bounded import LONGEST_ANSWER
from psychocounsel.remote.client import Client
from tests.support.answering import no_proxy

__all__ = ["no_proxy"]
Talk = Callable[[socket.socket], None]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def talking(talk: Talk) -> Iterator[str]:
    """Yield the address of a server that sends `talk` to each request and then closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            talk(connection)

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def ended(address: str, timeout_seconds: float = 30.0) -> str:
    """Return the one-line error of a request to the server."""
    client = Client([address], "reward", retries=0, timeout_seconds=timeout_seconds)
    with pytest.raises(UserError) as caught:
        list(client.answers("/score", [{"number": 1}], lambda answer, payload: answer))
    client.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
def test_an_endless_answer_is_cut_off(status: bytes) -> None:
    sent = [0]

    def stream(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 " + status + b'\r\n\r\n{"rewards": [')
        while True:
            sent[0] += connection.send(b"0.25, " * 10_000)

    with talking(stream) as address:
        line = ended(address)
        assert f"{address}/score answers with more than 64 MiB, the limit" in line
        time.sleep(0.1)
        assert LONGEST_ANSWER <= sent[0] < 1.5 * LONGEST_ANSWER  # includes bytes in transit


def test_an_answer_that_unpacks_to_any_size_is_not_unpacked() -> None:
    packed = zlib.compress(b"0" * 10_000_000)

    def bomb(connection: socket.socket) -> None:
        connection.sendall(
            HEAD + f"Content-Encoding: deflate\r\nContent-Length: {len(packed)}\r\n\r\n".encode() + packed
        )

    with talking(bomb) as address:
        assert f"{address}/score answers with compressed data" in ended(address)


def drip(connection: socket.socket, text: bytes) -> None:
    for byte in text:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.parametrize("part", ["headers", "body"])
def test_an_answer_in_drops_ends_in_time(part: str) -> None:
    def slowly(connection: socket.socket) -> None:
        if part == "body":
            connection.sendall(HEAD + b"\r\n")
        drip(connection, (b"X-Long: " if part == "headers" else b"[") + b"1" * 1000)

    with talking(slowly) as address:
        started = time.monotonic()
        assert "no answer within 0.5 s" in ended(address, timeout_seconds=0.5)
        assert time.monotonic() - started < 3


def test_a_silence_is_bounded_where_a_server_says_that_it_goes_on() -> None:
    """An answer that takes three times the time-out is read only if the server sends a space now and then."""

    def answers(spaces: bool) -> Talk:
        def talk(connection: socket.socket) -> None:
            connection.sendall(HEAD + b"\r\n" + b" ")
            for _ in range(15):
                time.sleep(0.1)
                connection.sendall(b" " * spaces)
            connection.sendall(b"[1]")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):  # unread bytes would reset the connection and lose the answer
                pass

        return talk

    def asked(address: str) -> Any:
        client = Client([address], "rollout", retries=0, timeout_seconds=0.5, from_last_byte=True)
        try:
            return next(client.answers("/generate", [{}], lambda answer, payload: answer))
        finally:
            client.close()

    with talking(answers(spaces=True)) as address:
        assert asked(address) == [1]
    with talking(answers(spaces=False)) as address, pytest.raises(UserError, match=r"no answer within 0\.5 s"):
        asked(address)


def test_json_that_is_nested_without_end_is_refused() -> None:
    body = b"[" * 100_000

    def nested(connection: socket.socket) -> None:
        connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with talking(nested) as address:
        assert f"{address}/score answers with something other than JSON" in ended(address)


def test_a_large_answer_below_the_bound_is_read() -> None:
    body = b"[" + b"0.25," * 200_000 + b"1]"

    def large(connection: socket.socket) -> None:
        connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with talking(large) as address:
        client = Client([address], "reward")
        (answer,) = client.answers("/score", [{}], lambda answer, payload: answer)
        client.close()
        assert len(answer) == 200_001


@pytest.mark.parametrize("answer", [b"[]", b"null", b'{"rewards": 3}'])
def test_an_answer_of_another_form_is_one_line(answer: bytes) -> None:
    def other(connection: socket.socket) -> None:
        connection.sendall(HEAD + f"Content-Length: {len(answer)}\r\n\r\n".encode() + answer)

    with talking(other) as address:
        client = Client([address], "reward")
        with pytest.raises(UserError, match=f"{address}/score: its answer cannot be used: it has an unexpected form"):
            list(client.answers("/score", [{}], lambda answer, payload: answer["rewards"][0]))
        client.close()


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    "drip",
    [b"x", b": still there\n\n", b"\n", b'data: {"a": 1}\n\n'],
    ids=["no line end", "comments", "lines", "events"],
)
def test_a_stream_has_a_deadline_for_the_whole_answer(drip: bytes) -> None:
    def stream(connection: socket.socket) -> None:
        connection.sendall(STREAM)
        while True:
            connection.sendall(drip)
            time.sleep(0.02)

    with talking(stream) as address:
        client, started = Client([address], "chat", retries=0, timeout_seconds=0.7), time.monotonic()
        with pytest.raises(UserError, match=r"no answer within 0\.7 s"):
            list(client.events("/x", {}))
        assert time.monotonic() - started < 5


def test_a_long_stream_without_line_ends_is_cut_off_in_linear_time() -> None:
    def stream(connection: socket.socket) -> None:
        connection.sendall(STREAM)
        while True:
            connection.sendall(b"x" * (1 << 16))

    with talking(stream) as address:
        client, started = Client([address], "chat", retries=0, timeout_seconds=60), time.monotonic()
        with pytest.raises(UserError, match="more than 64 MiB, the limit"):
            list(client.events("/x", {}))
        assert time.monotonic() - started < 20
