"""One exchange with a server: a JSON request and its answer, or the kind of failure."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from psychocounsel.errors import UserError
from psychocounsel.remote import reasons
from psychocounsel.remote.bounded import TooLong, Wire
from psychocounsel.remote.event_stream import events_of, is_event_stream

_CONNECT_SECONDS = 10.0


class Passing(Exception):
    """Error: an attempt failed, but another one may succeed. `seconds` is the pause that the server asks for.

    `is_busy`: the server receives too many requests, so this request is not at fault.
    """

    def __init__(self, reason: str, seconds: float = 0.0, is_busy: bool = False) -> None:
        super().__init__(reason)
        self.seconds, self.is_busy = seconds, is_busy


class Refused(UserError):
    """Error: the server refused a request and would refuse it again.

    `status`: its HTTP status. `said`: the text of its answer.
    """

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said


class NotJson(UserError):
    """Error: a server's answer is not JSON."""


@dataclass(frozen=True)
class Request:
    route: str
    payload: Any
    body: bytes | None = None  # sent unchanged, instead of the payload


class Exchange:
    """Sends requests from any thread. `key` is the config group that errors name; for other arguments see Client.

    Raises:
        UserError: at construction, if the variable `key_variable` holds no key.
    """

    def __init__(
        self,
        key: str,
        timeout_seconds: float,
        key_variable: str | None,
        budget: int | None,
        direct: bool,
        from_last_byte: bool = False,
    ) -> None:
        self.key, self.timeout_seconds, self.key_variable = key, timeout_seconds, key_variable
        self.budget, self.sent = budget, 0
        self._secret, self._lock = _secret(key, key_variable), threading.Lock()
        authorization = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        self._wire = Wire(authorization, timeout_seconds, _CONNECT_SECONDS, direct, from_last_byte)

    def send(self, url: str, request: Request) -> Any:
        """Return the parsed answer.

        Raises:
            Passing: if there is no answer, or a status 408, 429 or 5xx.
            Refused: for any other error status.
            NotJson: if the answer is not JSON.
            UserError: if the answer is too long, the proxy is unusable, or the budget is spent.
        """
        self._count()
        with self._failures(url):
            response = self._wire.post(url, _body(request))
        return self._parsed(url, request, response)

    def events(self, url: str, request: Request) -> Iterator[Any]:
        """Yield the parsed events of an answer as they arrive; an answer without an event stream yields one event.

        Raises:
            as `send`, also while events are read.
        """
        self._count()
        with self._failures(url), self._wire.streaming(url, _body(request)) as (head, pieces):
            if head.is_success and is_event_stream(head):
                try:
                    yield from events_of(pieces)
                except (ValueError, RecursionError) as error:
                    raise self._no_json(url) from error
                return
            whole = httpx.Response(head.status_code, headers=head.headers, content=b"".join(pieces))
        yield self._parsed(url, request, whole)

    @contextlib.contextmanager
    def _failures(self, url: str) -> Iterator[None]:
        """Convert exceptions of httpx and Wire to those that `send` documents."""
        try:
            yield
        except httpx.RequestError as error:
            raise Passing(reasons.of_error(error, self.timeout_seconds)) from error
        except TooLong as error:
            raise UserError(f"{self.key}: {url} {error}: is it the right server?") from error

    def _no_json(self, url: str) -> NotJson:
        return NotJson(f"{self.key}: {url} answers with something other than JSON: is it the right server?")

    def _parsed(self, url: str, request: Request, response: httpx.Response) -> Any:
        if response.is_success:
            try:
                return response.json()
            except (ValueError, RecursionError) as error:
                raise self._no_json(url) from error
        status, reason = response.status_code, reasons.of_status(response, request.payload, self._secret)
        if status in (408, 429) or status >= 500:
            raise Passing(reason, reasons.retry_after(response), status == 429)
        advice = reasons.advice(status, self.key, self.key_variable)
        raise Refused(f"{self.key}: {url} refuses: {reason}; {advice}", status, response.text)

    def close(self) -> None:
        self._wire.close()

    def _count(self) -> None:
        with self._lock:
            if self.budget is not None and self.sent >= self.budget:
                raise UserError(
                    f"{self.key}.budget={self.budget}: this many requests have been sent; raise {self.key}.budget to continue"
                )
            self.sent += 1


def _body(request: Request) -> bytes:
    return json.dumps(request.payload, allow_nan=False).encode() if request.body is None else request.body


def _secret(key: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    secret = os.environ.get(variable, "").strip()
    if not secret or not (secret.isascii() and secret.isprintable()):
        raise UserError(
            f"{key}.key_variable={variable}: this environment variable holds no key; set it to the server's key"
        )
    return secret
