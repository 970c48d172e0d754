"""The one HTTP client: JSON requests to one or several servers that give the same answers."""

import json
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from psychocounsel.errors import UserError
from psychocounsel.remote import reasons
from psychocounsel.remote.bounded import TooLong, Wire
from psychocounsel.remote.journal import Journal, request_key
from psychocounsel.remote.server_pool import Addresses, NoServerLeft

T = TypeVar("T")
Read = Callable[[Any, Any], T]  # of an answer, and the payload that it answers

_CONNECT_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts: doubled each time
_LONGEST_WAIT = 300.0  # a server that asks for more by Retry-After counts as failed
_FEW_RETRIES = 2  # where another server can take over, or nothing has begun yet


class _Passing(Exception):
    """An attempt failed in a way that another may not; `seconds` is what the server asks to wait."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


@dataclass(frozen=True)
class _Request:
    route: str
    payload: Any
    body: bytes | None = None  # sent as it is, in place of the payload


class Client:
    """Posts JSON to `addresses`, spread over all of them, with at most `concurrency` requests under way.

    An attempt that meets no server, no whole answer within `timeout_seconds`, or a status 408, 429 or 5xx is repeated, with
    growing pauses or those that the server asks for: up to `retries` times, but twice at most while there are other
    servers. Then the address is left out for some minutes, and others take its requests. An answer of more than
    LONGEST_ANSWER bytes is refused, and read no further. `budget` is the most requests that are sent, repeated ones included.
    `key_variable` names the environment variable that holds a bearer key. What is in `journal`, a folder, is not asked
    again. `key` is the configuration's group that errors name. `direct` passes by the proxies of the environment.

    Raises:
        UserError: at construction for addresses that are none, and for a variable that is not set.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        key: str,
        *,
        timeout_seconds: float = 60.0,
        retries: int = 8,
        concurrency: int = 4,
        key_variable: str | None = None,
        budget: int | None = None,
        journal: Path | None = None,
        direct: bool = False,
    ) -> None:
        self.key, self.retries, self.budget, self.sent = key, retries, budget, 0
        self.timeout_seconds, self.key_variable = timeout_seconds, key_variable
        self._secret = _secret(key, key_variable)
        self._addresses = Addresses(addresses, f"{key}.addresses")
        self._journal = Journal(journal) if journal else None
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(concurrency, "client")
        authorization = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        self._wire = Wire(authorization, timeout_seconds, _CONNECT_SECONDS, direct)

    def answers(self, route: str, payloads: Sequence[Any], read: Read[T]) -> Iterator[T]:
        """What `read` makes of the answer to each payload, in their order, as they come; asks when iteration begins.

        `read` is given parsed JSON and the payload, and raises ValueError, saying why, for what is no valid answer.

        Raises:
            UserError: if no server is left, one refuses a request or gives an invalid answer, or the budget is spent.
        """
        stop = threading.Event()
        begun: dict[str, Future[T]] = {}
        futures = [self._begin(_Request(route, payload), read, stop, begun) for payload in payloads]
        try:
            for future in futures:
                yield future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()
            if self._journal is not None:
                wait(futures)  # what is being answered is kept

    def check(self, route: str, payload: Any, read: Read[Any]) -> None:
        """Ask every address once, to learn before work starts that they answer.

        Raises:
            UserError: if none does, or one refuses or gives an invalid answer.
        """
        request = _Request(route, payload)
        for address in self._addresses.all:
            try:
                answer = self._ask_at(address, request, threading.Event(), _FEW_RETRIES)
            except _Passing as error:
                self._addresses.set_aside(address, str(error))
            else:
                _read(answer, request, address + route, read)
        self._addresses.give_back(self._addresses.take())  # raises if there is none left

    def live(self) -> list[str]:
        """The addresses that are not left out at the moment."""
        return self._addresses.live()

    def set_aside(self, address: str, reason: str) -> None:
        """Ask nothing more of an address for some minutes."""
        self._addresses.set_aside(address, reason)

    def post(self, address: str, route: str, body: bytes = b"") -> Any:
        """The parsed answer of one address to bytes that are sent once; None if there is none, and it is left out then.

        Raises:
            UserError: if it refuses.
        """
        try:
            return self._send(address + route, _Request(route, None, body))
        except _Passing as error:
            self.set_aside(address, str(error))
            return None

    def why_none(self) -> str:
        """Why no address is left, with the reason of each; empty if there is one."""
        try:
            self._addresses.give_back(self._addresses.take())
        except NoServerLeft as error:
            return str(error)
        return ""

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._wire.close()

    # -- one request

    def _begin(self, request: _Request, read: Read[T], stop: threading.Event, begun: dict[str, Future[T]]) -> Future[T]:
        if self._journal is None:
            return self._threads.submit(self._ask, request, read, stop, None)
        key = request_key(request.route, request.payload)
        if key not in begun and key in self._journal:
            begun[key] = Future()
            begun[key].set_result(_read(self._journal[key], request, str(self._journal.folder), read))
        if key not in begun:
            begun[key] = self._threads.submit(self._ask, request, read, stop, key)
        return begun[key]

    def _ask(self, request: _Request, read: Read[T], stop: threading.Event, key: str | None) -> T:
        while True:
            address = self._addresses.take()
            retries = min(self.retries, _FEW_RETRIES) if len(self._addresses.live()) > 1 else self.retries
            try:
                answer = self._ask_at(address, request, stop, retries)
            except _Passing as error:
                self._addresses.set_aside(address, str(error))
                continue
            finally:
                self._addresses.give_back(address)
            result = _read(answer, request, address + request.route, read)
            if self._journal is not None and key is not None:
                self._journal.add(key, answer)
            return result

    def _ask_at(self, address: str, request: _Request, stop: threading.Event, retries: int) -> Any:
        """The parsed answer of one address, after several attempts if need be."""
        pause = _FIRST_PAUSE
        for attempt in range(retries + 1):
            if stop.is_set():
                raise CancelledError
            try:
                return self._send(address + request.route, request)
            except _Passing as error:
                if attempt == retries or error.seconds > _LONGEST_WAIT or self._addresses.is_away(address):
                    raise
                stop.wait(max(error.seconds, pause * random.uniform(0.5, 1.0)))
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    def _send(self, url: str, request: _Request) -> Any:
        self._count()
        body = json.dumps(request.payload, allow_nan=False).encode() if request.body is None else request.body
        try:
            response = self._wire.post(url, body)
        except httpx.RequestError as error:
            raise _Passing(reasons.of_error(error, self.timeout_seconds)) from error
        except TooLong as error:
            raise UserError(f"{self.key}: {url} {error}: is it the right server?") from error
        if response.is_success:
            try:
                return response.json()
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{self.key}: {url} answers with something other than JSON: is it the right server?"
                ) from error
        status, reason = response.status_code, reasons.of_status(response, request.payload, self._secret)
        if status in (408, 429) or status >= 500:
            raise _Passing(reason, reasons.retry_after(response))
        raise UserError(f"{self.key}: {url} refuses: {reason}; {reasons.advice(status, self.key, self.key_variable)}")

    def _count(self) -> None:
        with self._lock:
            if self.budget is not None and self.sent >= self.budget:
                raise UserError(
                    f"{self.key}.budget={self.budget}: so many requests have been sent; give a larger one to go on"
                )
            self.sent += 1


def _read(answer: Any, request: _Request, source: str, read: Read[T]) -> T:
    try:
        return read(answer, request.payload)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is of another form"
        raise UserError(f"{source}: its answer cannot be used: {reason}") from error


def _secret(key: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    secret = os.environ.get(variable, "").strip()
    if not secret or not (secret.isascii() and secret.isprintable()):
        raise UserError(
            f"{key}.key_variable={variable}: this environment variable holds no key; set it to the server's key"
        )
    return secret
