"""Bounded HTTP exchanges: an answer has a largest size and a time limit or a longest silence, whatever the server does."""

import contextlib
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import httpx

from psychocounsel.errors import UserError
from psychocounsel.remote.server_access import proxy_of

LONGEST_ANSWER = 64 << 20  # bytes; the longest answers hold the tokens of several hundred replies
_SLOWEST_BYTES = 1e6  # per second, at which a server must at least receive a request


class TooLong(Exception):
    """Error: an answer has more than LONGEST_ANSWER bytes, or is compressed and could expand to any size."""


class Wire:
    """Posts to servers from any number of threads; each thread has its own connections, which a deadline can close.

    `seconds`: longest duration of an exchange, from its start to the last byte, in addition to the time for sending a
    long request. With `from_last_byte` it is the longest silence of a server instead: each byte of an answer restarts
    the time.
    `connect`: longest time to open a connection [s]. `direct`: ignore the proxies of the environment.
    """

    def __init__(
        self, headers: dict[str, str], seconds: float, connect: float, direct: bool, from_last_byte: bool
    ) -> None:
        self.seconds, self._direct, self._from_last_byte = seconds, direct, from_last_byte
        self._headers = {**headers, "Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._timeout = httpx.Timeout(seconds, connect=min(seconds, connect))
        self._tls: ssl.SSLContext = httpx.create_ssl_context()
        self._mine, self._all, self._lock = threading.local(), list[httpx.Client](), threading.Lock()

    def post(self, url: str, body: bytes) -> httpx.Response:
        """Return the whole answer.

        Raises:
            httpx.RequestError: if no answer arrives in time.
            TooLong: if the answer is longer than LONGEST_ANSWER; the rest is not read.
            UserError: if httpx does not support this kind of proxy.
        """
        deadline = _Deadline(self._streams())
        with deadline.within(self._seconds(body)):
            options: dict[str, Any] = {"content": body, "extensions": {"trace": deadline.see}}
            with self._client(url).stream("POST", url, **options) as response:
                content = b"".join(_pieces(response))
        return httpx.Response(response.status_code, headers=response.headers, content=content)

    @contextlib.contextmanager
    def streaming(self, url: str, body: bytes) -> Iterator[tuple[httpx.Response, Iterator[bytes]]]:
        """Yield the head of an answer and an iterator of its bytes as they arrive; the connection closes with the block.

        Raises:
            as `post`, also while the bytes are read.
        """
        deadline = _Deadline(weakref.WeakSet())
        options: dict[str, Any] = {"content": body, "extensions": {"trace": deadline.see}}
        in_time = deadline.within(self._seconds(body))
        with self._new_client(url) as client, in_time, client.stream("POST", url, **options) as response:
            yield response, _pieces(response)

    def _seconds(self, body: bytes) -> float | None:
        """Return the longest duration of an exchange; None if only the server's silence is limited."""
        return None if self._from_last_byte else self.seconds + len(body) / _SLOWEST_BYTES

    def close(self) -> None:
        for client in self._all:
            client.close()

    def _client(self, url: str) -> httpx.Client:
        """Return this thread's client for `url`, with its proxy."""
        proxy = None if self._direct else proxy_of(url)
        clients: dict[tuple[str, str] | None, httpx.Client] = self._mine.__dict__.setdefault("clients", {})
        if proxy not in clients:
            clients[proxy] = self._new_client(url)
            with self._lock:
                self._all.append(clients[proxy])
        return clients[proxy]

    def _new_client(self, url: str) -> httpx.Client:
        variable, proxy = (None if self._direct else proxy_of(url)) or ("", None)
        common: dict[str, Any] = {"headers": self._headers, "timeout": self._timeout, "verify": self._tls}
        try:
            return httpx.Client(**common, proxy=proxy, trust_env=False)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise UserError(
                f"{variable}: is not a usable proxy; give http://HOST:PORT, or exempt the server by NO_PROXY"
            ) from error

    def _streams(self) -> "weakref.WeakSet[Any]":
        """Return the connections of this thread."""
        if not hasattr(self._mine, "streams"):
            self._mine.streams = weakref.WeakSet()
        streams: weakref.WeakSet[Any] = self._mine.streams
        return streams


def _pieces(response: httpx.Response) -> Iterator[bytes]:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise TooLong("answers with compressed data, which was not requested")
    size = 0
    for piece in response.iter_raw():
        size += len(piece)
        if size > LONGEST_ANSWER:
            raise TooLong(f"answers with more than {LONGEST_ANSWER >> 20} MiB, the limit")
        yield piece


class _Deadline:
    """Closes the connections in `streams` when the time is over, because httpx restarts its own time-outs with every byte."""

    def __init__(self, streams: "weakref.WeakSet[Any]") -> None:
        self._streams, self._over = streams, threading.Event()

    def see(self, event: str, info: dict[str, Any]) -> None:
        """Collect the connections of an exchange from httpx's trace events."""
        stream = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            self._streams.add(stream)
            if self._over.is_set():
                self._end()

    @contextlib.contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """Close the connections after `seconds`; with None only httpx's own time-outs between two bytes apply."""
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except httpx.RequestError:
            if not self._over.is_set():
                raise
        finally:
            timer.cancel()
        if self._over.is_set():  # an answer without a length looks complete when its connection closes
            raise httpx.ReadTimeout(f"not complete after {seconds:.0f} s")

    def _end(self) -> None:
        self._over.set()
        for stream in [*self._streams]:
            with contextlib.suppress(OSError):  # it has closed by itself
                socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)
