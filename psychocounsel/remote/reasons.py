"""Short reasons of failed requests, for users."""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx

from psychocounsel.errors import words

_QUOTED = 16  # a server's message is hidden if it repeats this many characters of the request


def of_error(error: httpx.RequestError, timeout_seconds: float) -> str:
    """Return the reason of an attempt that had no answer."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout_seconds:g} s"
    text = (str(error).splitlines() or [""])[0]
    if "refused" in text:
        return "connection refused"
    return words(text[:200]) if text else type(error).__name__


def of_status(response: httpx.Response, payload: Any, secret: str | None) -> str:
    """Return the reason of an error status: its name, and the server's message unless it quotes the request or the key."""
    status, said = response.status_code, _words(response)
    named = f"status {status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else f"status {status}"
    asked = json.dumps(payload, ensure_ascii=False)
    quotes = any(said[start : start + _QUOTED] in asked for start in range(max(1, len(said) - _QUOTED + 1)))
    return named if quotes or (secret and secret in said) else f"{named} ({words(said[:200])})"


def _words(response: httpx.Response) -> str:
    try:
        said: Any = response.json()
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "detail", "message"):
        said = said.get(name, said) if isinstance(said, dict) else said
    return " ".join(said.split()) if isinstance(said, str) else ""


def advice(status: int, key: str, key_variable: str | None) -> str:
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
