"""Ports on which the processes of a job meet and serve."""

import secrets
import socket

_FIRST, _END = 10000, 32768  # below the ports that Linux gives to clients


def free_port() -> int:
    """A random port to which nothing on this node is bound: nobody can take it beforehand, and jobs do not share one."""
    while True:
        port = _FIRST + secrets.randbelow(_END - _FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
