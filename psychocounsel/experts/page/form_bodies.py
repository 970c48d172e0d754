"""Requests and responses of the page: bodies within bounds, headers that keep browsers from passing anything on."""

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
    """The body of a form, read no further than the most that a form may have.

    Raises:
        BadForm: if it is longer, or no form.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
        raise BadForm("The request is no form.")
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise BadForm("The form is too long.")
        parts.append(part)
    return b"".join(parts)


def guarded(response: Response) -> Response:
    """The response with headers: nothing is kept, framed, sniffed or fetched from elsewhere, and no link leaks the address."""
    response.headers.update(_HEADERS)
    return response
