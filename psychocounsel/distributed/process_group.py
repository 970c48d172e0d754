"""Process group of rank 0 of training and the workers of one server, used to transfer weights."""

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
    """A process group in which the trainer is rank 0; tensors are sent on `device`. The default group is not affected."""

    def __init__(self, backend: Any, device: torch.device) -> None:
        self.backend, self.device = backend, device

    def send(self, tensors: Iterable[torch.Tensor]) -> list[tuple[Any, torch.Tensor]]:
        """Start to send tensors from rank 0; return (work, tensor) pairs. Keep each tensor until its work is done."""
        flat = [_bytes(value.to(self.device)) for value in tensors]
        return [(self.backend.broadcast(value, 0), value) for value in flat if value.numel()]

    def receive(self, header: Header) -> list[tuple[str, torch.Tensor]]:
        """Return the tensors that rank 0 sends, by the names in `header`.

        Raises:
            RuntimeError: if rank 0 dies, or nothing arrives before the time-out.
        """
        tensors = [
            (name, torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)) for name, dtype, shape in header
        ]
        for work, _ in self.send(value for _, value in tensors):
            work.wait()
        return tensors

    def close(self) -> None:
        with suppress(RuntimeError):  # a failed group may already be gone
            self.backend.abort()


def header_of(weights: Sequence[tuple[str, torch.Tensor]]) -> Header:
    return [(name, str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in weights]


def _bytes(value: torch.Tensor) -> torch.Tensor:
    """Return the tensor's own memory as uint8[n], because backends support few dtypes."""
    return value.contiguous().view(-1).view(torch.uint8)


def join(
    host: str, port: int, name: str, rank: int, size: int, backend: str, seconds: float, device: torch.device
) -> ServerGroup:
    """Join the group `name` at the store of rank 0; NCCL uses `device`, and gloo the CPU.

    Raises:
        RuntimeError: if some members have not joined after `seconds`.
    """
    timeout = timedelta(seconds=seconds)
    store: Any = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    store = dist.PrefixStore(name, store)
    if backend == "nccl":
        group = ServerGroup(_nccl(store, rank, size, timeout), device)
    else:
        options = dist.ProcessGroupGloo._Options()
        # By address, because at some sites the host names of nodes do not resolve.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_address(host, port))]
        options._timeout = timeout
        group = ServerGroup(dist.ProcessGroupGloo(store, rank, size, options), torch.device("cpu"))
    for work, _ in group.send([torch.zeros(1)]):  # NCCL connects with the first transfer
        work.wait()
    return group


def _nccl(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """Return a group whose `wait` raises after the time-out; by default NCCL would end the process."""
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    with _lock:  # NCCL reads the variable when a group is created; other groups of the process must not see it
        before = os.environ.get(_BLOCKING)
        os.environ[_BLOCKING] = "1"
        try:
            return dist.ProcessGroupNCCL(store, rank, size, options)
        finally:
            os.environ.pop(_BLOCKING)
            if before is not None:
                os.environ[_BLOCKING] = before


def own_address(host: str, port: int) -> str:
    """Return the address that this machine uses to reach `host`."""
    family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # sends nothing
        return str(probe.getsockname()[0])
