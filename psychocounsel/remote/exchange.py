"""One exchange with a server: a JSON request and its answer, or the kind of failure."""

import codecs
import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx

from psychocounsel.errors import UserError
from psychocounsel.remote.bounded import TooLong, Wire
from psychocounsel.remote.received import message_of, received, shown

# The exchange

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

    `status`: its HTTP status. `answer`: the text of its answer.
    """

    def __init__(self, message: str, status: int, answer: str) -> None:
        super().__init__(message)
        self.status, self.answer = status, answer


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
        self, key: str, timeout_seconds: float, key_variable: str | None, direct: bool, from_last_byte: bool
    ) -> None:
        self.key, self.timeout_seconds, self.key_variable = key, timeout_seconds, key_variable
        self.secret = _secret(key, key_variable)
        authorization = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        self._wire = Wire(authorization, timeout_seconds, _CONNECT_SECONDS, direct, from_last_byte)

    def send(self, url: str, request: Request) -> Any:
        """Return the parsed answer.

        Raises:
            Passing: if there is no answer, or a status 408, 429 or 5xx.
            Refused: for any other error status.
            NotJson: if the answer is not JSON.
            UserError: if the answer is too long, or the proxy is unusable.
        """
        with self._failures(url, request):
            response = self._wire.post(url, _body(request))
        return self._parsed(url, request, response)

    def events(self, url: str, request: Request) -> Iterator[Any]:
        """Yield the parsed events of an answer as they arrive; an answer without an event stream yields one event.

        Raises:
            as `send`, also while events are read.
        """
        with self._failures(url, request), self._wire.streaming(url, _body(request)) as (head, pieces):
            if head.is_success and is_event_stream(head):
                yield from self._events(url, request, pieces)
                return
            whole = httpx.Response(head.status_code, headers=head.headers, content=b"".join(pieces))
        yield self._parsed(url, request, whole)

    def _events(self, url: str, request: Request, pieces: Iterable[bytes]) -> Iterator[Any]:
        events = events_of(pieces)
        while True:
            try:
                event = received(next(events), self.secret)
            except StopIteration:
                return
            except (ValueError, RecursionError) as error:
                raise self._no_json(url) from error
            if isinstance(event, dict) and event.get("error"):
                reason = shown(message_of(event), request.payload, self.secret)
                raise Passing(f"its answer breaks off ({reason})" if reason else "its answer breaks off")
            yield event

    @contextlib.contextmanager
    def _failures(self, url: str, request: Request) -> Iterator[None]:
        """Convert exceptions of httpx and Wire to those that `send` documents."""
        try:
            yield
        except httpx.RequestError as error:
            reason = reason_of_error(error, self.timeout_seconds, request.payload, self.secret)
            raise Passing(reason) from error
        except TooLong as error:
            raise UserError(f"{self.key}: {url} {error}: is it the right server?") from error

    def _no_json(self, url: str) -> NotJson:
        return NotJson(f"{self.key}: {url} answers with something other than JSON: is it the right server?")

    def _parsed(self, url: str, request: Request, response: httpx.Response) -> Any:
        if response.is_success:
            try:
                return received(json.loads(_text(response)), self.secret)
            except (ValueError, RecursionError) as error:
                raise self._no_json(url) from error
        status, reason = response.status_code, reason_of_status(response, request.payload, self.secret)
        if status in (408, 429) or status >= 500:
            raise Passing(reason, retry_after(response), status == 429)
        advice = advice_on_status(status, self.key, self.key_variable)
        raise Refused(
            f"{self.key}: {url} refuses: {reason}; {advice}", status, response.content.decode(errors="replace")
        )

    def close(self) -> None:
        self._wire.close()


def _body(request: Request) -> bytes:
    return json.dumps(request.payload, allow_nan=False).encode() if request.body is None else request.body


_CHARSETS = (
    "cp1250",
    "cp1251",
    "cp1252",
    "gb18030",
    "iso8859-1",
    "iso8859-2",
    "iso8859-15",
    "koi8-r",
    "shift_jis",
    "big5",
)


def _text(response: httpx.Response) -> str:
    """Return the text of an answer in UTF-8, 16 or 32, or else in a usual charset of its head; odd bytes are replaced.

    The answer is paid for, so a wrong name or byte must not lose it.
    """
    content = response.content
    charsets: list[str] = [json.detect_encoding(content)]
    with contextlib.suppress(LookupError, ValueError):
        charsets += [name for name in [codecs.lookup(response.charset_encoding or "").name] if name in _CHARSETS]
    for name in charsets:
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode(name, "surrogatepass" if name.startswith("utf") else "strict")
    return content.decode(errors="replace")


def _secret(key: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    secret = os.environ.get(variable, "").strip()
    if not secret or not (secret.isascii() and secret.isprintable()):
        raise UserError(
            f"{key}.key_variable={variable}: this environment variable holds no key; set it to the server's key"
        )
    return secret


# Server-sent events with JSON data (WHATWG HTML, section 9.2.6): streamed answers of chat servers

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
    rest = bytearray()  # grows in place, so that a line of many pieces takes no quadratic time
    for piece in pieces:
        first, *more = piece.split(b"\n")
        rest += first
        for start in more:
            yield rest.removesuffix(b"\r").decode("utf-8", errors="replace")
            rest = bytearray(start)
    if rest:
        yield rest.decode("utf-8", errors="replace")


# Reasons of failed requests, for users


def reason_of_error(
    error: httpx.RequestError, timeout_seconds: float, payload: Any = None, secret: str | None = None
) -> str:
    """Return the reason of an attempt that had no answer."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout_seconds:g} s"
    text = (str(error).splitlines() or [""])[0]
    if "refused" in text and isinstance(error, httpx.ConnectError):
        return "connection refused"
    return shown(text, payload, secret) or type(error).__name__


def reason_of_status(response: httpx.Response, payload: Any, secret: str | None) -> str:
    """Return the reason of an error status: its name, and the server's message unless it quotes the request or the key."""
    status = response.status_code
    named = f"status {status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else f"status {status}"
    try:
        message = shown(message_of(response.json()), payload, secret)
    except (ValueError, RecursionError):
        message = ""
    return f"{named} ({message})" if message else named


def advice_on_status(status: int, key: str, key_variable: str | None) -> str:
    """Return advice for the user about an HTTP status that a retry would not change."""
    if status in (401, 403) and key_variable:
        return f"it does not accept the key in {key_variable}"
    if status in (401, 403):
        return f"name the environment variable that holds its key by {key}.key_variable"
    if status in (404, 405):
        return "is it the right kind of server, and the right address?"
    if status == 413:
        return f"the request is too large for it: lower {key}.batch_size"
    return "the server does not support this request"


def retry_after(response: httpx.Response) -> float:
    """Return the seconds of the header Retry-After, which is a number or a date; 0 without one."""
    text = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
