"""HTTP servers on the loopback interface. The test decides their answers, valid or faulty."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Reply:
    """HTTP answer with any status, body and headers. It can come late (`hang`, seconds) or not at all (`drop`)."""

    def __init__(self, status: int = 200, body: bytes = b"{}", hang: float = 0, drop: bool = False, **headers: str):
        self.status, self.body, self.hang, self.drop, self.headers = status, body, hang, drop, headers


class Server:
    """Server that answers POST requests by `respond(payload, number)`; requests are numbered from 0.

    `asked` lists the path and payload of every request, `answered` the payloads of completely answered requests.
    """

    def __init__(self, respond: Callable[[Any, int], Any]) -> None:
        self.asked: list[Any] = []
        self.answered: list[Any] = []
        self.keys: list[str | None] = []
        self.busy = self.busiest = 0
        self._respond, self._lock, self._ended = respond, threading.Lock(), threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop like a killed process: open connections break, and new ones are refused."""
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "null")
                if server._ended.is_set():  # a keep-alive connection of a client outlives the listening socket
                    self.close_connection = True
                    return
                with server._lock:
                    number = len(server.asked)
                    server.asked.append((self.path, payload))
                    server.keys.append(self.headers.get("Authorization"))
                    server.busy += 1
                    server.busiest = max(server.busiest, server.busy)
                try:
                    reply = server._respond(payload, number)
                    reply = reply if isinstance(reply, Reply) else Reply(body=json.dumps(reply).encode())
                    ended = server._ended.wait(reply.hang)
                finally:  # before the answer is sent, because the client may send its next request at once
                    with server._lock:
                        server.busy -= 1
                self.answer(reply, ended, payload)

            def answer(self, reply: Reply, ended: bool, payload: Any) -> None:
                if ended or reply.drop:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(reply.body)
                self.wfile.flush()
                server.answered.append(payload)

        return Handler


@contextmanager
def serving(respond: Callable[[Any, int], Any]) -> Iterator[Server]:
    server = Server(respond)
    try:
        yield server
    finally:
        server.stop()


def answer_of_wandb(payload: Any, number: int) -> dict[str, Any]:
    """Answer as a server of Weights & Biases to which `wandb sync` uploads a run."""
    bucket = {"id": "r", "name": "run", "displayName": "run", "config": "{}", "historyLineCount": 0}
    bucket["project"] = {"id": "p", "name": "counsel", "entity": {"id": "e", "name": "me"}}
    answers = {"upsertBucket": {"bucket": bucket, "inserted": True}, "model": {"bucket": None}}
    return {"data": answers | {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}}


@pytest.fixture
def dead_address() -> str:
    """Return the address of a stopped server."""
    server = Server(lambda payload, number: {})
    server.stop()
    return server.address


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bypass HTTP proxies for these servers in every test of a module that imports this fixture."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
