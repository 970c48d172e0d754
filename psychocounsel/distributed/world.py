"""The processes of a run, connected by gloo on CPU and NCCL on GPU."""

import fcntl
import os
import socket
import struct
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from psychocounsel.distributed.gpu import own_gpu, require_gpu
from psychocounsel.distributed.process_group import own_address

# Choice of gloo's network interface: loopback on one machine, otherwise NCCL's, or the one that reaches rank 0. By default
# gloo looks up the machine's own name, which may not resolve, or resolve to loopback.

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_ASK_ADDRESS = 0x8915  # SIOCGIFADDR
_LOCAL = ("lo", "docker", "virbr", "veth")  # interfaces that reach no other machine


def name_interface(host: str) -> None:
    """Set gloo's interface in the environment, unless the user has set it.

    `host`: address of rank 0's machine; "" if all ranks are on one machine.
    """
    if not host:  # a container's own name may not resolve
        os.environ.setdefault(_GLOO, "lo")
    elif _GLOO not in os.environ:
        interfaces = {name: address for _, name in socket.if_nameindex() if (address := _address_of(name))}
        setting = os.environ.get(_NCCL)
        names = chosen(setting, list(interfaces)) if setting else _that_reach(host, interfaces)
        if names:
            os.environ[_GLOO] = names[0]


def _that_reach(host: str, interfaces: Mapping[str, str]) -> list[str]:
    """Return the interface by which this machine reaches `host`; [] if `host` does not resolve, or only to loopback.

    `interfaces`: IPv4 address of each interface.
    """
    try:
        own = own_address(host, 1)
    except OSError:
        return []
    return [name for name, address in interfaces.items() if address == own and not address.startswith("127.")]


def chosen(setting: str, interfaces: Sequence[str]) -> list[str]:
    """Return the members of `interfaces` selected by NCCL_SOCKET_IFNAME=`setting`.

    `setting` lists prefixes of names. "=" before the list means whole names, and "^" means names to exclude.
    """
    leaves_out, rest = setting.startswith("^"), setting.removeprefix("^")
    whole, rest = rest.startswith("="), rest.removeprefix("=")
    names = [name.partition(":")[0] for name in rest.split(",") if name]
    named = {
        interface
        for interface in interfaces
        for name in names
        if (interface == name if whole else interface.startswith(name))
    }
    if leaves_out:
        return [interface for interface in interfaces if interface not in named and not interface.startswith(_LOCAL)]
    return [interface for interface in interfaces if interface in named]


def _address_of(interface: str) -> str:
    """Return the IPv4 address of an interface; "" if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _ASK_ADDRESS, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


_PIECE = 1 << 24


class World:
    """Rank, size and device of a process, and the few collectives that the loop needs.

    A collective that other ranks do not join fails after `timeout_minutes`, in every process group made from now on.

    Raises:
        UserError: if the run uses GPUs and torch can use none.
    """

    def __init__(self, rank: int, size: int, timeout_minutes: float = 60.0) -> None:
        use_cuda = os.environ.get("PSYCHOCOUNSEL_DEVICE", "cpu") == "cuda"
        self.rank, self.size = rank, size
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        self.device = torch.device("cpu")
        if use_cuda:
            require_gpu()
            local_rank = own_gpu(local_rank, torch.cuda.device_count())
            self.device = torch.device("cuda", local_rank)
            torch.cuda.set_device(self.device)
        name_interface(_meeting_host())
        os.environ.setdefault("DS_ACCELERATOR", "cuda" if use_cuda else "cpu")
        os.environ["LOCAL_RANK"] = str(local_rank)  # DeepSpeed and vLLM take the GPU of this number
        method = os.environ.get("PSYCHOCOUNSEL_RENDEZVOUS") or _rendezvous(size)
        # Longer than the watchdog's limit, because the watchdog ends a hang with stacks and a helpful exit code.
        timeout = timedelta(minutes=timeout_minutes)
        # DeepSpeed and vLLM make further groups with torch's default, which is 10 minutes for NCCL.
        distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout
        backend = "nccl" if use_cuda else "gloo"
        dist.init_process_group(backend, init_method=method, timeout=timeout, rank=rank, world_size=size)
        _init_deepspeed()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return each value summed over all ranks, in float64."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Return the objects of all ranks, in the order of ranks, on every rank."""
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def on_this_machine(self) -> int:
        """Return the number of the run's processes on this machine. All ranks call it together."""
        return self.gather(os.uname().nodename).count(os.uname().nodename)

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's object on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def broadcast_floats(self, values: np.ndarray | None, count: int) -> np.ndarray:
        """Return rank 0's float32[count] on every rank; it is sent in pieces, so that no copy of the whole is needed."""
        if self.size == 1 and values is not None:
            return values
        result = np.empty(count, np.float32) if values is None else values
        for start in range(0, count, _PIECE):
            piece = torch.from_numpy(result[start : start + _PIECE]).to(self.device)
            dist.broadcast(piece, src=0)
            result[start : start + _PIECE] = piece.cpu().numpy()
        return result

    def from_main(self, work: Callable[[], Any], meanwhile: Callable[[], None]) -> Any:
        """Return the result of rank 0's `work` on every rank; until then, all ranks call `meanwhile` together every second."""
        future = ThreadPoolExecutor(1).submit(work) if self.rank == 0 else None
        while not self.broadcast(future is not None and bool(wait([future], 1.0).done)):
            meanwhile()
        return self.broadcast(future.result() if future is not None else None)

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        dist.destroy_process_group()


def _meeting_host() -> str:
    """Return the address of rank 0's machine from the launcher's rendezvous; "" if all ranks are on one machine."""
    method = os.environ.get("PSYCHOCOUNSEL_RENDEZVOUS", "")
    if not method and "MASTER_ADDR" in os.environ:
        method = f"tcp://{os.environ['MASTER_ADDR']}"
    host = urlsplit(method).hostname or "" if method.startswith("tcp://") else ""
    return "" if host == "localhost" or host.startswith("127.") else host


def _rendezvous(size: int) -> str:
    """Return the rendezvous without a launcher: MASTER_ADDR and MASTER_PORT, or a temporary file for a single process."""
    if "MASTER_ADDR" in os.environ or size > 1:
        return "env://"
    return f"file://{tempfile.mkdtemp(prefix='psychocounsel-')}/store"


def _init_deepspeed() -> None:
    """Start DeepSpeed's communication without its compiled operators.

    On CPU, its first initialisation compiles a shared-memory operator if that is compatible, which takes half a minute
    and needs a compiler. DeepSpeed keeps a table of compatible operators in `deepspeed.ops`, made at first use. An
    empty table prevents probing and compiling, and gloo is used instead.
    """
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    vars(deepspeed.ops)["__compatible_ops__"] = defaultdict(bool)
    deepspeed.init_distributed(dist_init_required=False)
