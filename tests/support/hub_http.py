"""HTTP layer of the tests' hub: routing of requests and sending of answers."""

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit


class Refusal(Exception):
    """Error answer, with its status and X-Error-Code."""


class Handler(BaseHTTPRequestHandler):
    """Request handler that calls the first of `routes` whose pattern matches 'METHOD /path', with its named groups."""

    routes: ClassVar[list[tuple[str, Any]]] = []
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # so that headers and body are sent in one packet

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        self.body = self._read_body()
        self.route = unquote(urlsplit(self.path).path)
        self.before(f"{self.command} {self.route}")
        try:
            for pattern, handle in self.routes:
                if match := re.fullmatch(pattern, f"{self.command} {self.route}"):
                    return handle(self, **match.groupdict())
            raise Refusal(404, "")
        except Refusal as refusal:
            status, code = refusal.args
            self.answer(b"{}", status, **({"X-Error-Code": code} if code else {}))

    def before(self, request: str) -> None:
        """Handle a request, given as 'METHOD /path', before it is answered. Subclasses override this."""

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: Any, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status, Content_Type="application/json")
