"""`report --watch`: serves the page of running runs to this machine and rebuilds it when files change."""

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

from psychocounsel.blocks.kinds import Report
from psychocounsel.errors import UserError
from psychocounsel.reporting.page import page_html

_SECONDS = 5.0  # between two checks of the folders
_REST = 3  # after a rebuild, wait at least this many times the rebuild's duration
_HOST = "127.0.0.1"

Stamps = dict[str, tuple[int, int]]


def watch(make: Callable[[], Report], port: int = 0, opens: bool = False) -> None:
    """Serve the report on loopback until Ctrl-C. Open pages reload when it changes.

    Args:
        make: reads the folders again. The files in `Report.folders` are watched.
        port: 0 takes a free port.
        opens: open the page in this machine's browser.

    Raises:
        UserError: if `make` raises it for the first report, or if the port cannot be opened.
    """
    began = time.monotonic()
    report = make()
    watched = _Watched(page_html(report, "1"))
    with _server(watched, port) as server:
        watched.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:  # starts before the line is printed, because a reader may press Ctrl-C as soon as it appears
            print(f"The report is at {watched.address} and follows its runs; press Ctrl-C to stop.", flush=True)
            if opens:
                webbrowser.open(watched.address)
            _follow(make, report, watched, time.monotonic() - began)
        except KeyboardInterrupt:
            print("\nThe report is no longer served.", flush=True)
        finally:
            server.shutdown()


def _follow(make: Callable[[], Report], report: Report, watched: "_Watched", took: float) -> None:
    """Rebuild the report whenever files change. If a rebuild fails, the page stays as it is."""
    seen: Stamps = {}  # files may have changed while the first report was made, so it is rebuilt once
    while True:
        time.sleep(max(_SECONDS, _REST * took))
        now = stamps(report)
        if now == seen:
            continue
        seen, began = now, time.monotonic()
        try:
            report = make()
        except UserError as error:
            print(f"the page is unchanged: {error}", file=sys.stderr, flush=True)
            continue
        watched.show(report)
        took = time.monotonic() - began


def stamps(report: Report) -> Stamps:
    """Return modification time [ns] and size [bytes] by file. Hidden files are skipped, because they are unfinished."""
    return {
        entry.path: (stat.st_mtime_ns, stat.st_size)
        for folder in report.folders
        for entry in _files(Path(folder))
        if (stat := _about(entry))
    }


def _files(folder: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # removed meanwhile, or a file
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
    """The served page. `version` counts its changes; the token in its address keeps other users of this machine out."""

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
        """Replace the page if its content changed. A heartbeat changes files but no figure, so pages need not reload."""
        if page_html(report, str(self.version)) != self.page:
            self.page = page_html(report, str(self.version + 1))
            self.version += 1

    def answer(self, path: str, host: str) -> tuple[str, str] | None:
        """Return content type and text of `path`, or None. A wrong `host` is refused: it is sent by other sites' pages."""
        if host not in (f"{_HOST}:{self.port}", f"localhost:{self.port}"):
            return None
        if path == f"/{self.token}/":
            return "text/html; charset=utf-8", self.page
        return ("text/plain; charset=utf-8", str(self.version)) if path == f"/{self.token}/version" else None


def _server(watched: _Watched, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = watched.answer(urlsplit(self.path).path, self.headers.get("Host", ""))
            if answer is None:
                self.send_error(404)
                return
            kind, text = answer
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
            """Log nothing, because polls would fill the terminal."""

    try:
        return ThreadingHTTPServer((_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot open port {port}: {error}; --port=0 takes a free port") from error
