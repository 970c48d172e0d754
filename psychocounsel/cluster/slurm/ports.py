"""Ports for the rendezvous and the servers of a job."""

import secrets
import socket

_FIRST, _END = 10000, 32768  # below the ports that Linux assigns to clients


def free_port() -> int:
    """Return a random port that is free on this node; random, so that nobody can take it beforehand and jobs do not share it."""
    while True:
        port = _FIRST + secrets.randbelow(_END - _FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
