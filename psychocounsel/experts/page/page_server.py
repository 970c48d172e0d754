"""Server of a review's page on loopback, until Ctrl-C or SIGTERM."""

import socket
from collections.abc import Callable
from typing import Any

from psychocounsel.errors import UserError

HOST = "127.0.0.1"


def listening(port: int) -> socket.socket:
    """Return a socket bound to 127.0.0.1. Port 0 picks a free port.

    Raises:
        UserError: if the port is taken.
    """
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except OSError as error:
        found.close()
        raise UserError(f"review.port={port}: cannot be opened ({error.strerror}); 0 takes a free port") from error
    return found


def serve(application: Any, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal arrives; open requests are still answered. `ready` is called once the server accepts requests.

    Requests are not logged, because their addresses are secret.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    settings = uvicorn.Config(
        application,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
        limit_concurrency=200,
        h11_max_incomplete_event_size=32_000,
    )
    Server(settings).run(sockets=[listener])
