"""Transfer of the policy's weights from rank 0 of training to engines that write replies."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from psychocounsel.errors import UserError
from psychocounsel.model.lora import merged_parameters

if TYPE_CHECKING:
    import torch

    from psychocounsel.distributed.process_group import ServerGroup
    from psychocounsel.remote.client import Client
    from psychocounsel.rollout.base import TrainedPolicy

# Transfer to rollout servers, by a process group with each server or by HTTP

Piece = list[tuple[str, "torch.Tensor"]]


class Transfer:
    """One transfer of weights to all addresses of `client` at once; `kind` is `rollout.transfer`.

    HTTP answers report the result of each part, so rank 0 never waits for a server that died: that server is left out
    and its process group is closed. Each transfer makes new process groups, one for each server.
    """

    def __init__(self, client: Client, kind: str, device: torch.device, seconds: float) -> None:
        self.client, self.kind, self.device, self.seconds = client, kind, device, seconds
        self.groups: dict[str, ServerGroup] = {}
        self.slots: dict[str, int] = {}  # number of replies that each server writes at once
        self._threads = ThreadPoolExecutor(max(1, len(client.addresses.live())), "transfer")
        collective = kind == "collective" or (kind == "auto" and device.type == "cuda")
        self._store = _store(client.addresses.live()) if collective else None

    def begin(self, adapter_rank: int) -> None:
        """Stop the servers' writing and connect to their workers. Adapters (`adapter_rank` above 0) go by HTTP only.

        Raises:
            UserError: if a server refuses; if it cannot reach this machine and `kind` is "collective"; or if it was
                started for other adapters.
        """
        self._each(lambda address: self._begin(address, adapter_rank))

    def send_adapter(self, body: bytes) -> None:
        """Send the policy's adapter to all remaining servers."""
        self._each(lambda address: self.client.post(address, "/weights/adapter", body, _taken))

    def send(self, piece: Piece) -> None:
        """Send some parameters to all remaining servers."""
        from safetensors.torch import save

        by_http = any(address not in self.groups for address in self.client.addresses.live())
        body = save({name: value.cpu().contiguous() for name, value in piece}) if by_http else b""
        self._each(lambda address: self._send(address, piece, body))

    def end(self, version: int) -> list[str]:
        """Let the servers write again; return the addresses of those that took all weights.

        Raises:
            UserError: as `refuse_missing` does.
        """
        self._each(lambda address: self._end(address, version))
        for group in self.groups.values():
            group.close()
        self._threads.shutdown()
        return self.client.addresses.live()

    def _each(self, task: Callable[[str], Any]) -> None:
        for _ in self._threads.map(task, self.client.addresses.live()):
            pass  # raises a task's exception

    def _begin(self, address: str, adapter_rank: int) -> None:
        from psychocounsel.distributed.process_group import join, own_address

        parts = urlsplit(address)
        here = own_address(parts.hostname or "", parts.port or 80)
        place = {"host": here, "port": self._store.port} if self._store else {}
        server = self.client.post(address, "/weights/begin", json.dumps(place).encode(), _ready)
        if server is None:
            return
        self.slots[address] = server.slots
        _refuse_other_adapters(address, adapter_rank, server.adapter_rank)
        if not place or adapter_rank:
            return
        backend = "nccl" if {self.device.type, server.device} == {"cuda"} else "gloo"
        if self.kind == "auto" and not (server.reached and backend == "nccl"):
            return
        if not server.reached:
            raise UserError(
                f"rollout.transfer=collective: {address} cannot connect to {place['host']}:{place['port']}, where this "
                "process waits for it; open the ports between them, or use rollout.transfer=http"
            )
        size = 1 + server.workers
        meeting = {**place, "name": address, "size": size, "backend": backend, "seconds": self.seconds}
        group = _in_background(lambda: join(rank=0, device=self.device, **meeting))
        if self.client.post(address, "/weights/join", json.dumps(meeting).encode(), _taken) is None:
            return  # it died; the thread that still waits for it does no harm
        try:
            self.groups[address] = group.result(self.seconds)
        except (RuntimeError, TimeoutError) as error:
            self.client.addresses.set_aside(
                address, f"no process group: {(str(error).splitlines() or ['time-out'])[0][:200]}"
            )

    def _end(self, address: str, version: int) -> None:
        missing = self.client.post(address, f"/weights/end?version={version}", b"", _missing)
        refuse_missing(f"rollout: {address}", missing or [])

    def _send(self, address: str, piece: Piece, body: bytes) -> None:
        from psychocounsel.distributed.process_group import header_of

        group = self.groups.get(address)
        if group is None:
            self.client.post(address, "/weights/piece", body, _taken)
            return
        under_way = group.send(value for _, value in piece)
        if self.client.post(address, "/weights/broadcast", json.dumps(header_of(piece)).encode(), _taken) is None:
            self.groups.pop(address).close()
            return
        for work, _ in under_way:
            work.wait()


# What servers answer


@dataclass(frozen=True)
class _Server:
    """A server that is ready for weights; `reached`: it can connect to the store of rank 0."""

    slots: int
    workers: int
    adapter_rank: int
    device: str
    reached: bool


def _ready(answer: Any, _: Any) -> _Server:
    server = _Server(**{item.name: answer[item.name] for item in fields(_Server)})
    counts = (server.slots, server.workers, server.adapter_rank)
    if not all(type(count) is int and 0 <= count < 1 << 20 for count in counts) or not server.slots:
        raise ValueError("slots, workers and adapter_rank must be counts")
    return server


def _missing(answer: Any, _: Any) -> list[str]:
    return [str(name) for name in list(answer.get("missing", []))]


def _taken(answer: Any, _: Any) -> bool:
    return True


def _refuse_other_adapters(address: str, ours: int, theirs: int) -> None:
    """Reject a server that was started for adapters of a smaller rank, or for whole weights (rank 0) instead."""
    if bool(ours) != bool(theirs) or ours > theirs:
        raise UserError(
            f"rollout.addresses: {address} was started with model.lora.rank={theirs or 'null'}, but this run has "
            f"{ours or 'null'}: start it with the model.* settings of the run"
        )


def refuse_missing(where: str, missing: Sequence[str]) -> None:
    """Reject a transfer after which parameters of vLLM's model are `missing`; `where` names the engine.

    Raises:
        UserError: naming the first three.
    """
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(
            f"{where}: vLLM took no weights, or only a part, for {shown}: this version of vLLM does not load this "
            "model's weights by the names that training has for them; use rollout=hf"
        )


def _store(addresses: Sequence[str]) -> Any:
    """Return the store where process groups meet, on a free port; only this machine reaches it if all servers are here."""
    import torch.distributed as dist

    from psychocounsel.distributed.process_group import own_address

    parts = [urlsplit(address) for address in addresses]
    if any(not own_address(part.hostname or "", part.port or 80).startswith("127.") for part in parts):
        return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # it listens on all interfaces
    listening = socket.create_server(("127.0.0.1", 0))
    port, descriptor = listening.getsockname()[1], listening.detach()
    return dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)


def _in_background(work: Callable[[], Any]) -> Future[Any]:
    """Return the future result of `work`, run in a thread that does not delay the end of the process."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


# The policy's weights in pieces

_PIECE = 1 << 28  # bytes of weights sent at once


def weights_of(engine: TrainedPolicy) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Yield the named weights of a policy without adapters, about 256 MB at a time.

    Under ZeRO-3 all ranks must iterate together; at most one piece is gathered at a time.
    """
    piece: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, value in merged_parameters(engine.module.lm):
        piece.append((name, value.to(engine.dtype, copy=True)))
        size += piece[-1][1].nbytes
        if size >= _PIECE:
            yield piece
            piece, size = [], 0
    yield piece


# The receiving side: an extension of vLLM's workers (`worker_extension_cls`)

WORKER_EXTENSION = "psychocounsel.rollout.weight_sync.WeightLoading"


class WeightLoading:
    """Methods of a worker, called by name: begin_weights, take_weights as often as needed, end_weights.

    For a process group, `join_trainer` follows begin_weights, and take_broadcast replaces take_weights.
    """

    model_runner: Any
    vllm_config: Any
    rank: int  # number among the engine's workers
    device: Any
    trainer: Any = None  # process group with rank 0 of training
    missing: set[str]  # parameters of vLLM's model for which nothing has arrived

    def begin_weights(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        self.trainer = None  # drop the group of an unfinished transfer
        model = self.model_runner.get_model()
        with self._configured():
            # End an unfinished transfer, or vLLM would count its weights as those of this one.
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            tied = tied_names(model)
            initialize_layerwise_reload(model)
        # Only now, because layers that repack their weights have other parameters while the engine writes.
        self.missing = {name for name, _ in model.named_parameters()} - tied

    def take_weights(self, weights: Iterable[tuple[str, Any]] | str) -> None:
        """Load some parameters: pairs of a Hugging Face name and a tensor, or the path of a safetensors file."""
        if isinstance(weights, str):
            from safetensors.torch import load_file

            weights = load_file(weights).items()
        with self._configured():
            loaded = self.model_runner.get_model().load_weights(iter(weights))
        # A few of vLLM's models report no names; then only the log-probabilities of the first replies are checked.
        self.missing = set() if loaded is None else self.missing.difference(loaded)

    def join_trainer(self, meeting: dict[str, Any]) -> None:
        """Join the process group with rank 0 of training; `meeting` holds keyword arguments of `process_group.join`."""
        from psychocounsel.distributed.process_group import join

        self.trainer = join(rank=1 + self.rank, device=self.device, **meeting)

    def take_broadcast(self, header: Any) -> None:
        """Load the parameters of `header` (`process_group.Header`), which rank 0 of training sends now."""
        self.take_weights(self.trainer.receive(header))

    def end_weights(self) -> list[str]:
        """Move the loaded weights to the place where the engine computes with them.

        Returns the names of parameters that are missing or incomplete, and now hold old or arbitrary values.
        """
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        model = self.model_runner.get_model()
        missing = sorted(self.missing | _incomplete(model))
        with self._configured():
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            head, embeddings = _part(model, "lm_head"), _part(model, "model.embed_tokens")
            if head is not embeddings and getattr(head, "weight", None) is getattr(embeddings, "weight", model):
                # A tied output layer loads nothing itself; on CPU it would keep using a packed copy of the old weights.
                head.quant_method.process_weights_after_loading(head)
        self.model_runner.reset_encoder_cache()
        if self.trainer is not None:
            self.trainer.close()
            self.trainer = None
        return missing

    def _configured(self) -> AbstractContextManager[None]:
        """Return vLLM's configuration context, because layers read the engine's configuration when they repack weights."""
        from vllm.config import set_current_vllm_config

        context: AbstractContextManager[None] = set_current_vllm_config(self.vllm_config)
        return context


def tied_names(model: Any) -> set[str]:
    """Return the names of parameters that `model` also has under an earlier name, such as a tied output layer's."""
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in model.named_parameters()}


def _incomplete(model: Any) -> set[str]:
    """Return the names of linear layers that have taken only some of their weights.

    vLLM joins the query, key and value weights, and those of gate and up, in one parameter, whose name it reports for
    each of them. Other layers are not counted here: embeddings stay incomplete, because vLLM pads the vocabulary.
    """
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    linear = {name: get_layerwise_info(layer) for name, layer in model.named_modules() if isinstance(layer, LinearBase)}
    return {name for name, info in linear.items() if info.can_load() and info.load_numel > 0}


def _part(model: Any, name: str) -> Any:
    for step in name.split("."):
        model = getattr(model, step, None)
    return model
