"""Addresses of a review's page. Each expert's pages are below the secret part of their link; other addresses give 404."""

import hmac
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from psychocounsel.experts.page.forms import MOST_BYTES, BadForm, Form, read_form, refuse_other_fields, text_of
from psychocounsel.experts.page.views import PageViews
from psychocounsel.experts.review.blind_review import BlindReview

# Addresses

STATIC = {"page.css": "text/css", "page.js": "text/javascript"}
_FOLDER = Path(__file__).parent / "static"
_NOT_SAVED = (
    "The server could not save your last input. Please go back and try again, or tell the person who sent you the link."
)
_NOT_FOUND = "This page does not exist. Please check the link that you were sent."

Answerer = Callable[["Visit"], Response]


class Visit:
    """A request of an expert: their name, the parts of the address below their link, and the form sent."""

    def __init__(self, expert: str, request: Request, form: Form) -> None:
        self.expert, self.form = expert, form
        self.parts: dict[str, Any] = dict(request.path_params)
        self.query = dict(request.query_params)
        below = request.url.path.count("/") - 2
        self.root = "../" * below or "./"  # relative, so that a proxy can serve the page below any path


class ReviewPages:
    """Answers to the requests of all experts.

    Args:
        hosts: names under which the page is served. A request with another name is refused, so that a page of another site
            cannot read this one by pointing its own name here.
        say: prints a line for the study's organiser.
    """

    def __init__(self, review: BlindReview, views: PageViews, hosts: Iterable[str], say: Callable[[str], None]) -> None:
        self._review, self._views, self._hosts, self._say = review, views, frozenset(hosts), say
        self._tokens = {name: token.encode() for name, token in review.plan.tokens.items()}
        self._shown_at: dict[tuple[str, str, int], float] = {}
        self._lock = threading.Lock()

    def application(self) -> Starlette:
        """Return the application with all routes, for any ASGI server."""
        item = "/item/{item:str}/{repeat:int}"
        pages: dict[str, tuple[Answerer, Answerer | None]] = {
            "/": (self._home, None),
            "/consent": (self._home, self._agree),
            "/practice/{number:int}": (self._home, self._practise),
            item: (self._item, self._answer),
            "/answers": (self._answers, None),
            "/stop": (self._stop, None),
            "/report": (self._report, self._send_report),
            "/withdraw": (self._ask_withdrawal, self._withdraw),
        }
        routes = [Route("/{token}/" + name, self._file, methods=["GET"]) for name in STATIC]
        for path, (shown, sent) in pages.items():
            methods = ["GET"] if sent is None else ["GET", "POST"]
            routes.append(Route("/{token}" + path, self._endpoint(shown, sent), methods=methods))
        handlers: dict[Any, Any] = {404: self._missing, 405: self._missing}
        routes.append(Route("/{token}", self._to_folder, methods=["GET"]))
        made = Starlette(routes=routes, exception_handlers=handlers)
        made.router.redirect_slashes = False  # such a redirect would name this host instead of the proxy's
        return made

    def _endpoint(self, shown: Answerer, sent: Answerer | None) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            expert = self._expert(request)
            if expert is None:
                return self._problem(404, "Not found", _NOT_FOUND)
            try:
                form = read_form(await body_of(request)) if request.method == "POST" else {}
                answerer = sent if request.method == "POST" and sent is not None else shown
                visit = Visit(expert, request, form)
                return guarded(await run_in_threadpool(answerer, visit))
            except BadForm as error:
                return self._problem(400, "Not accepted", f"{error} Go back and send the form again.")
            except OSError as error:
                self._say(f"NOT SAVED: input of {expert} ({error.strerror or type(error).__name__})")
                return self._problem(500, "Not saved", _NOT_SAVED)

        return endpoint

    def _expert(self, request: Request) -> str | None:
        """Return the expert of the link, or None. All links are compared, each in constant time."""
        if request.headers.get("host", "").lower() not in self._hosts:
            return None
        token = str(request.path_params["token"]).encode("utf-8", "replace")
        matches = [name for name, known in self._tokens.items() if hmac.compare_digest(known, token)]
        return matches[0] if matches else None

    def _to_folder(self, request: Request) -> Response:
        """Redirect a link without its last slash."""
        if self._expert(request) is None:
            return self._problem(404, "Not found", _NOT_FOUND)
        return guarded(RedirectResponse(f"{request.path_params['token']}/", 303))

    def _file(self, request: Request) -> Response:
        if self._expert(request) is None:
            return self._problem(404, "Not found", _NOT_FOUND)
        name = request.url.path.rsplit("/", 1)[-1]
        return guarded(Response((_FOLDER / name).read_bytes(), media_type=STATIC[name]))

    def _home(self, visit: Visit, status: str = "") -> Response:
        review, views, root = self._review, self._views, visit.root
        step = review.next_step(visit.expert)
        shown = review.raters[visit.expert].shown
        if step.kind == "consent":
            items = [review.item(entry) for entry in shown]
            about = {"consent": views.consent, "version": review.version, "total": len(shown)}
            about |= {"crisis": sum(item.crisis for item in items), "unknown": sum(item.risk_unknown for item in items)}
            about["risks"] = review.plan.kind.texts.risks
            return _page(views.page("consent", root, status, in_a_row=review.limits.crisis_in_a_row, **about))
        if step.kind == "practice" and step.practice is not None:
            return _page(views.practice(step.practice, root, status))
        if step.kind == "pause":
            return _page(views.pause(step, root))
        if step.kind == "item" and step.shown is not None:
            return self._shown(visit, step.shown, status)
        return _page(views.page("message", root, status, **_LAST_WORDS[step.kind]))

    def _agree(self, visit: Visit) -> Response:
        refuse_other_fields(visit.form, {"agree", "version"})
        if self._review.next_step(visit.expert).kind != "consent":
            return _redirect(visit, "")
        if visit.form.get("version") != self._review.version:
            return self._home(visit, "The text has changed since you opened the page. Please read it again.")
        if visit.form.get("agree") != "yes":
            return self._home(visit, "Please tick the box if you agree.")
        self._review.agree(visit.expert)
        return _redirect(visit, "")

    def _practise(self, visit: Visit) -> Response:
        refuse_other_fields(visit.form, {"choice"})
        choice = visit.form.get("choice", "")
        if choice not in ("left", "right", "tie"):
            return self._home(visit, "Please choose A, B, or tie.")
        practice = self._review.practise(visit.expert, visit.parts["number"], choice)
        return _redirect(visit, "") if practice is None else _page(self._views.feedback(practice, choice, visit.root))

    def _item(self, visit: Visit, status: str = "") -> Response:
        shown = self._review.may_answer(visit.expert, visit.parts["item"], visit.parts["repeat"])
        if shown is None:
            return self._problem(404, "Not found", _NOT_FOUND)
        return self._shown(visit, shown, status)

    def _shown(self, visit: Visit, shown: Any, status: str) -> Response:
        with self._lock:
            self._shown_at.setdefault((visit.expert, shown.item, shown.repeat), time.monotonic())
        return _page(self._views.item(visit.expert, shown, visit.root, status))

    def _answer(self, visit: Visit) -> Response:
        shown = self._review.may_answer(visit.expert, visit.parts["item"], visit.parts["repeat"])
        if shown is None:
            return self._problem(404, "Not found", _NOT_FOUND)
        key = (visit.expert, shown.item, shown.repeat)
        with self._lock:
            began = self._shown_at.get(key)
        given = self._review.plan.kind.answer_of(visit.form, None if began is None else time.monotonic() - began)
        changed = (shown.item, shown.repeat) in self._review.raters[visit.expert].answers
        self._review.answer(visit.expert, shown, given)
        with self._lock:
            self._shown_at.pop(key, None)
        return _redirect(visit, "answers" if changed else "")

    def _answers(self, visit: Visit) -> Response:
        if self._review.next_step(visit.expert).kind in ("consent", "withdrawn"):
            return _redirect(visit, "")
        return _page(self._views.answers(visit.expert, visit.root))

    def _stop(self, visit: Visit) -> Response:
        self._review.stop(visit.expert)
        return _page(self._views.page("stop", visit.root))

    def _report(self, visit: Visit) -> Response:
        item = visit.query.get("item", "")
        known = any(entry.item == item for entry in self._review.raters[visit.expert].shown)
        return _page(self._views.page("report", visit.root, item=item if known else "", sent=False))

    def _send_report(self, visit: Visit) -> Response:
        refuse_other_fields(visit.form, {"said", "item"})
        report, item = text_of(visit.form, "said"), visit.form.get("item") or None
        if item is not None and all(entry.item != item for entry in self._review.raters[visit.expert].shown):
            raise BadForm("The form names an item that is not assigned to you.")
        if not report:
            return self._report(visit)
        self._review.adverse.report(visit.expert, item, report)
        return _page(self._views.page("report", visit.root, item="", sent=True))

    def _ask_withdrawal(self, visit: Visit) -> Response:
        if self._review.raters[visit.expert].withdrawn:
            return _redirect(visit, "")
        return _page(self._views.page("withdraw", visit.root))

    def _withdraw(self, visit: Visit) -> Response:
        refuse_other_fields(visit.form, {"confirm"})
        if visit.form.get("confirm") == "withdraw":
            self._review.withdraw(visit.expert)
        return _redirect(visit, "")

    def _problem(self, code: int, heading: str, text: str) -> Response:
        page = self._views.page("problem", "./", heading=heading, said=text)
        return guarded(HTMLResponse(page, code))

    async def _missing(self, request: Request, error: Exception) -> Response:
        return self._problem(404, "Not found", _NOT_FOUND)


_LAST_WORDS: dict[str, dict[str, Any]] = {
    "done": {
        "heading": "You have answered all items",
        "said": ["Thank you. You may look at your answers and change them until the study ends."],
    },
    "failed": {
        "heading": "Thank you for practising",
        "said": [
            "Your practice answers differ from the rubric more often than this study allows, so no items follow.",
            "Please tell the person who sent you the link: the rubric may be wrong, and they can talk it over with you.",
        ],
    },
    "withdrawn": {
        "heading": "You have withdrawn",
        "said": ["Your answers have been deleted. Thank you for your time."],
    },
}


def _page(text: str) -> Response:
    return HTMLResponse(text)


def _redirect(visit: Visit, place: str) -> Response:
    """Redirect to another page of the same expert. After a form this prevents a reload from sending it twice."""
    return RedirectResponse(f"{visit.root}{place}", 303)


def hosts_of(port: int, address: str | None) -> set[str]:
    """Return the allowed values of the header Host: loopback names, and the proxy's address."""
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
    return hosts | {urlsplit(address).netloc.lower()} if address else hosts


# Bodies of limited size, and headers for privacy

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
