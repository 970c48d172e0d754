"""Requests and responses of the page: bodies of limited size, and headers that protect the experts' privacy."""

from starlette.requests import Request
from starlette.responses import Response

from psychocounsel.experts.page.answer_forms import MOST_BYTES, BadForm

_POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; form-action 'self'; "
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY + "base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def body_of(request: Request) -> bytes:
    """Return the body of a form. Reading stops at the size limit.

    Raises:
        BadForm: if the body is longer or not a form.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
        raise BadForm("The request is not a form.")
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise BadForm("The form is too long.")
        parts.append(part)
    return b"".join(parts)


def guarded(response: Response) -> Response:
    """Add headers: browsers must not cache, frame or sniff the page, load from other hosts, or send its address to them."""
    response.headers.update(_HEADERS)
    return response
