"""Stand-in for a rollout server: takes weights, and answers with random replies, late or not at all as the test decides."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

BEGUN = {"workers": 1, "slots": 64, "device": "cpu", "adapter_rank": 0, "reached": False}


class StandIn:
    """HTTP server at `address`. `seconds(number)` is the delay of the answer to prompt `number` [s]; None drops its connection.

    `asked` holds the time of each request for replies.
    """

    def __init__(self, seconds: Callable[[int], float | None]) -> None:
        self.seconds, self.version, self.asked = seconds, -1, list[float]()
        self._lock, self._over = threading.Lock(), threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._over.set()
        self.http.shutdown()
        self.http.server_close()

    def replies(self, body: Any) -> dict[str, Any] | None:
        """Return the answer to a request for replies, after its delay; None if the connection is to be dropped."""
        with self._lock:
            number = len(self.asked)
            self.asked.append(time.time())
        delay, version = self.seconds(number), self.version
        if delay is None or self._over.wait(delay):
            return None
        (settings,) = body["settings"]
        drawn = random.Random(settings["seed"])
        made = [[drawn.randrange(3, 200) for _ in range(6)] + body["stop"][:1] for _ in range(settings["n"])]
        return {"version": version, "replies": [[[ids, [-1.0] * len(ids)] for ids in made]]}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body, url = self.rfile.read(int(self.headers["Content-Length"] or 0)), urlsplit(self.path)
                answer: dict[str, Any] | None = {}
                if url.path == "/generate":
                    answer = server.replies(json.loads(body))
                elif url.path == "/weights/begin":
                    answer = BEGUN
                elif url.path == "/weights/end":
                    server.version = int(parse_qs(url.query)["version"][0])
                    answer = {"version": server.version, "missing": []}
                if answer is None:
                    self.close_connection = True
                    return
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler


@contextmanager
def standing_in(seconds: Callable[[int], float | None]) -> Iterator[StandIn]:
    server = StandIn(seconds)
    try:
        yield server
    finally:
        server.stop()
