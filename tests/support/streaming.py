"""Chat server on the loopback interface that streams its answers as server-sent events."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StreamingServer:
    """Server that streams the texts that `pieces(payload)` yields, or sends the dict that it returns with status 400.

    `asked` holds the payloads of streaming requests. `broken` is set when a client closes a stream before its end.
    """

    def __init__(self, pieces: Callable[[Any], Iterable[str] | dict[str, Any]]) -> None:
        self.pieces, self.asked, self.broken = pieces, list[Any](), threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not payload.get("stream"):  # the client's first request checks that the server answers
                    message = {"role": "assistant", "content": "Hello."}
                    self.head(200, "application/json", json.dumps({"choices": [{"message": message}]}).encode())
                    return
                server.asked.append(payload)
                found = server.pieces(payload)
                if isinstance(found, dict):
                    self.head(400, "application/json", json.dumps(found).encode())
                    return
                self.head(200, "text/event-stream; charset=utf-8", b": a comment keeps the connection alive\n\n")
                try:
                    for piece in found:
                        self.event({"choices": [{"index": 0, "delta": {"content": piece}}]})
                    self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "model": "served"})
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    server.broken.set()

            def head(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            def event(self, content: Any) -> None:
                self.wfile.write(f"data: {json.dumps(content)}\r\n\r\n".encode())
                self.wfile.flush()

        return Handler


@contextmanager
def streaming(pieces: Callable[[Any], Iterable[str] | dict[str, Any]]) -> Iterator[StreamingServer]:
    server = StreamingServer(pieces)
    try:
        yield server
    finally:
        server.stop()
