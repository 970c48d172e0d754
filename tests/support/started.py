"""Starter of servers that run in their own process until a test ends."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx


@contextmanager
def started(
    command: Sequence[str], health: str, is_well: Callable[[httpx.Response], bool], **options: Any
) -> Iterator[None]:
    """Run `command` until the block ends. The block starts when `is_well` accepts the answer of the address `health`."""

    def answers() -> bool:
        try:
            return is_well(httpx.get(health, timeout=5, trust_env=False))
        except httpx.HTTPError:
            return False

    server = subprocess.Popen(command, start_new_session=True, **options)
    deadline = time.monotonic() + 300
    try:
        while not answers():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.3)
        yield
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
