"""`report --watch`: the page of runs that go on, served to this machine alone and made again when their files change."""

import os
import secrets
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from psychocounsel.errors import UserError
from psychocounsel.reporting.blocks import Report
from psychocounsel.reporting.page import page_html

_SECONDS = 5.0  # between looks at the folders
_REST = 3  # so many times as long as making the report took, the folders may change before it is made again
_HOST = "127.0.0.1"

Stamps = dict[str, tuple[int, int]]


def watch(make: Callable[[], Report], port: int = 0, opens: bool = False) -> None:
    """Serve the report on loopback until Ctrl-C; open pages reload when it changes.

    Args:
        make: reads the folders again. `Report.folders` are the paths whose files are watched.
        port: 0 takes a free one.
        opens: open the page in the browser of this machine.
    """
    began = time.monotonic()
    report = make()
    watched = _Watched(page_html(report, "1"))
    with _server(watched, port) as server:
        watched.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:  # from here on: whoever reads the line may answer it with Ctrl-C at once
            print(f"The report is at {watched.address} and follows its runs; Ctrl-C ends it.", flush=True)
            if opens:
                webbrowser.open(watched.address)
            _follow(make, report, watched, time.monotonic() - began)
        except KeyboardInterrupt:
            print("\nThe report is no longer served.", flush=True)
        finally:
            server.shutdown()


def _follow(make: Callable[[], Report], report: Report, watched: "_Watched", took: float) -> None:
    """Make the report again whenever files changed; one that cannot be made just now leaves the page as it is."""
    seen: Stamps = {}  # files may have changed while the first report was made: it is made once more
    while True:
        time.sleep(max(_SECONDS, _REST * took))
        now = stamps(report)
        if now == seen:
            continue
        seen, began = now, time.monotonic()
        try:
            report = make()
        except UserError as error:
            print(f"the page stays as it was: {error}", file=sys.stderr, flush=True)
            continue
        watched.show(report)
        took = time.monotonic() - began


def stamps(report: Report) -> Stamps:
    """Time and size of every file in the report's folders; hidden ones are being written."""
    return {
        entry.path: (about.st_mtime_ns, about.st_size)
        for folder in report.folders
        for entry in _files(Path(folder))
        if (about := _about(entry))
    }


def _files(folder: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # removed while we look, or a file
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield entry


def _about(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None


@dataclass
class _Watched:
    """The page as served; its version counts how often it changed. The token keeps other users of this machine out."""

    page: str
    version: int = 1
    port: int = 0
    token: str = ""

    def __post_init__(self) -> None:
        self.token = secrets.token_urlsafe(16)

    @property
    def address(self) -> str:
        return f"http://{_HOST}:{self.port}/{self.token}/"

    def show(self, report: Report) -> None:
        """A heartbeat changes files and no figure: then nobody's page needs to reload."""
        if page_html(report, str(self.version)) != self.page:
            self.page = page_html(report, str(self.version + 1))
            self.version += 1

    def answer(self, path: str, host: str) -> tuple[str, str] | None:
        """Kind and text of what lies at `path`. A page of another site whose name points here sends its own name as host."""
        if host not in (f"{_HOST}:{self.port}", f"localhost:{self.port}"):
            return None
        if path == f"/{self.token}/":
            return "text/html; charset=utf-8", self.page
        return ("text/plain; charset=utf-8", str(self.version)) if path == f"/{self.token}/version" else None


def _server(watched: _Watched, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = watched.answer(urlsplit(self.path).path, self.headers.get("Host", ""))
            if found is None:
                self.send_error(404)
                return
            kind, text = found
            body = text.encode()
            self.send_response(200)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
            headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
            headers["Content-Security-Policy"] = "frame-ancestors 'none'"
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: polls would fill the terminal."""

    try:
        return ThreadingHTTPServer((_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be had: {error}; --port=0 takes a free one") from error
