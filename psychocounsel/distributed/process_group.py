"""A process group of its own for rank 0 of training and the workers of one server, over which weights go."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

Header = list[tuple[str, str, list[int]]]  # name, dtype and shape of each tensor
_BLOCKING = "TORCH_NCCL_BLOCKING_WAIT"
_lock = threading.Lock()


class ServerGroup:
    """The trainer is its rank 0; tensors go on `device`. Beside the default group, which it does not touch."""

    def __init__(self, backend: Any, device: torch.device) -> None:
        self.backend, self.device = backend, device

    def send(self, tensors: Iterable[torch.Tensor]) -> list[tuple[Any, torch.Tensor]]:
        """Begin to send from rank 0; each tensor must live until its work, which has `wait()`, is done."""
        flat = [_bytes(value.to(self.device)) for value in tensors]
        return [(self.backend.broadcast(value, 0), value) for value in flat if value.numel()]

    def receive(self, header: Header) -> list[tuple[str, torch.Tensor]]:
        """What rank 0 sends under these names.

        Raises:
            RuntimeError: if it dies, or nothing comes in time.
        """
        found = [
            (name, torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)) for name, dtype, shape in header
        ]
        for work, _ in self.send(value for _, value in found):
            work.wait()
        return found

    def close(self) -> None:
        with suppress(RuntimeError):  # a group that failed may be gone already
            self.backend.abort()


def header_of(weights: Sequence[tuple[str, torch.Tensor]]) -> Header:
    return [(name, str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in weights]


def _bytes(value: torch.Tensor) -> torch.Tensor:
    """The tensor's own memory as uint8[n]: backends know few dtypes."""
    return value.contiguous().view(-1).view(torch.uint8)


def join(
    host: str, port: int, name: str, rank: int, size: int, backend: str, seconds: float, device: torch.device
) -> ServerGroup:
    """Meet at the store of rank 0 under `name`; `device` is used by NCCL, and CPU by gloo.

    Raises:
        RuntimeError: if not all have come after `seconds`.
    """
    timeout = timedelta(seconds=seconds)
    store: Any = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    store = dist.PrefixStore(name, store)
    if backend == "nccl":
        group = ServerGroup(_nccl(store, rank, size, timeout), device)
    else:
        options = dist.ProcessGroupGloo._Options()
        # By address: host names of nodes resolve nowhere at some sites.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_address(host, port))]
        options._timeout = timeout
        group = ServerGroup(dist.ProcessGroupGloo(store, rank, size, options), torch.device("cpu"))
    for work, _ in group.send([torch.zeros(1)]):  # NCCL connects with the first transfer
        work.wait()
    return group


def _nccl(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """A group whose `wait` raises after the time-out, where by default the process would be ended."""
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    with _lock:  # it is read when a group is made, and no other group of the process should be so
        before = os.environ.get(_BLOCKING)
        os.environ[_BLOCKING] = "1"
        try:
            return dist.ProcessGroupNCCL(store, rank, size, options)
        finally:
            os.environ.pop(_BLOCKING)
            if before is not None:
                os.environ[_BLOCKING] = before


def own_address(host: str, port: int) -> str:
    """This machine's address on the way to another."""
    family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # sends nothing
        return str(probe.getsockname()[0])
