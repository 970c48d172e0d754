"""`rollout=vllm_server`: servers write the replies; training sends them the weights before each round."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psychocounsel.errors import UserError, words
from psychocounsel.remote.server_access import check_addresses
from psychocounsel.rollout.adapters import AdapterFolder
from psychocounsel.rollout.base import Arriving, Rollout, Sampling, Shard, TrainedPolicy, completion
from psychocounsel.rollout.local_servers import gpus_of_servers, too_few_gpus, visible_gpus
from psychocounsel.rollout.vllm_engine import VLLMEngine, check_weights, request
from psychocounsel.rundir import run
from psychocounsel.settings import config as configs
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from psychocounsel.data.group import Completion, Group
    from psychocounsel.distributed.world import World
    from psychocounsel.model.shape import Shape
    from psychocounsel.remote.client import Client
    from psychocounsel.rollout.weight_sync import Transfer

KEY_VARIABLE = "PSYCHOCOUNSEL_ROLLOUT_KEY"
_MOST_THREADS = 512  # per process; each waits for one answer


@dataclass
class VLLMServer(VLLMEngine):
    """Settings of vLLM servers: `addresses` of `psychocounsel serve`, `cluster.server_nodes`, or `servers` on this machine."""

    shares_gpus = False

    gpu_memory: float = option(0.9, above=0, below=1)
    addresses: list[str] = option([])
    servers: int = option(1, at_least=1)
    start_minutes: float = option(20.0, above=0, at_most=1_000_000)
    timeout_seconds: float = option(300.0, at_least=5, at_most=1_000_000)
    transfer: str = option("auto", choices=("auto", "http", "collective"))
    max_staleness: int = option(0, at_least=0)

    def check(self, config: DictConfig, processes: int) -> None:
        limit = config.engine.watchdog_minutes
        if not self.addresses and not config.cluster.get("server_nodes") and self.start_minutes >= limit:
            raise UserError(
                f"rollout.start_minutes={self.start_minutes:g}: a run that waits for engine.watchdog_minutes={limit:g} is ended; "
                f"add engine.watchdog_minutes={self.start_minutes + 10:g}"
            )
        if not self.addresses:
            self._check_gpus(config, processes)
            super().check(config, processes)
        else:
            check_addresses(self.addresses, "rollout.addresses")
            check_weights(config)
        if self.addresses and not os.environ.get(KEY_VARIABLE):
            raise UserError(
                f"rollout.addresses: the servers' key is unknown; set {KEY_VARIABLE} to the key that they were started with"
            )
        if self.addresses and config.cluster.get("server_nodes"):
            raise UserError("rollout.addresses and cluster.server_nodes both name servers: keep one")
        if self.max_staleness and not configs.build(config, "algo").tolerates_stale_rollouts:
            raise UserError(
                f"rollout.max_staleness={self.max_staleness} trains on replies of older weights, but this algorithm "
                "assumes that the present policy wrote them: set algo.importance_cap as well, 2.0 for instance"
            )

    def _check_gpus(self, config: DictConfig, processes: int) -> None:
        """Reject servers that do not fit on the GPUs left by training."""
        cluster = configs.build(config, "cluster")
        if not cluster.gpus():
            return
        if config.cluster.get("server_nodes"):
            if self.tensor_parallel > config.cluster.gpus_per_node:
                raise UserError(
                    f"rollout.tensor_parallel={self.tensor_parallel}: a server needs its GPUs on one node, but "
                    f"cluster.gpus_per_node={config.cluster.gpus_per_node}"
                )
            return
        training, gpus = cluster.first_node(processes)
        if gpus - training < self.servers * self.tensor_parallel:
            nodes = processes // training
            raise UserError(too_few_gpus(self.servers, self.tensor_parallel, gpus - training, training, nodes))

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if self.addresses:
            ours = (
                "servers",
                "start_minutes",
                "tensor_parallel",
                "max_sequences",
                "gpu_memory",
                "cpu_cache_gb",
                "eager",
            )
            return unused | dict.fromkeys(ours, "the servers at rollout.addresses were started with their own settings")
        if config.cluster.get("server_nodes"):
            return unused | dict.fromkeys(
                ("servers", "start_minutes"), "cluster.server_nodes and cluster.servers replace this setting"
            )
        return unused

    def open(
        self, config: DictConfig, engine: TrainedPolicy, tokenizer: Any, stop: Sequence[int], world: World
    ) -> VLLMServerRollout:
        run_dir, local = Path(config.run_dir), None
        if not self.addresses:
            os.environ[KEY_VARIABLE] = world.broadcast(run.server_secret(run_dir) if world.rank == 0 else None)
        training = world.on_this_machine()
        if not self.addresses and not config.cluster.get("server_nodes") and world.rank == 0:
            from psychocounsel.rollout.local_servers import LocalServers

            gpus = [""] * self.servers
            if world.device.type == "cuda":
                gpus = gpus_of_servers(visible_gpus(), training, self.servers, self.tensor_parallel)
            local = LocalServers(run_dir, gpus, self.start_minutes)

        def ready() -> list[str]:
            return list(self.addresses) or (local.ready() if local else run.job_servers(run_dir))

        return VLLMServerRollout(engine, tokenizer, stop, world, ready, self, config.model.lora.rank or 0)

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return every address; servers that the run starts itself do not count."""
        return [(f"{key}.addresses", address) for address in self.addresses]

    def memory(self, shape: Shape, config: DictConfig, samples: int) -> dict[str, float | None]:
        """Return no memory, because servers have GPUs of their own."""
        return {}

    @classmethod
    def server_command(cls, rollout: DictConfig) -> list[str]:
        if rollout.get("addresses"):
            return []
        everywhere = "0.0.0.0"  # training runs on other nodes; requests without the key only get /health
        return ["{python}", "-m", "psychocounsel.rollout.server", "{run_dir}", "{port}", everywhere]

    @classmethod
    def servers_per_node(cls, rollout: DictConfig, gpus: Any) -> int:
        per_server = rollout.get("tensor_parallel")
        both_count = isinstance(gpus, int) and isinstance(per_server, int) and per_server > 0
        return max(1, gpus // per_server) if both_count else 1


class VLLMServerRollout(Rollout):
    """Writes replies by servers. `ready()`, called on rank 0, returns addresses to try; it may start servers."""

    draws_by_prompt = True
    writes_with_a_copy = True

    def __init__(
        self,
        engine: TrainedPolicy,
        tokenizer: Any,
        stop: Sequence[int],
        world: World,
        ready: Callable[[], list[str]],
        settings: VLLMServer,
        adapter_rank: int = 0,
    ) -> None:
        self.engine, self.tokenizer, self.stop, self.world = engine, tokenizer, sorted(stop), world
        self.ready, self.timeout_seconds, self.transfer = ready, settings.timeout_seconds, settings.transfer
        self.adapter = AdapterFolder() if adapter_rank else None
        self.adapter_rank = adapter_rank
        self.direct, self.rounds_ahead = not settings.addresses, settings.max_staleness
        self.version, self.slots = -1, 1
        self.client: Any = None

    def sync(self, version: int) -> None:
        if version != self.version:
            self._send(version)

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        """Implements `Rollout.generate`; a prompt's replies are drawn with its seed (`Sampling.seed_of`)."""
        return dict(self.write([(list(groups), sampling)], lambda: None)).get(0, [])

    def write(self, shards: Sequence[Shard], alive: Callable[[], None]) -> Iterator[tuple[int, list[Group]]]:
        """Implements `Rollout.write`. Requests to a server that died go to the others, or to a restarted one.

        Ranks look at each other once a second, so one that is finished waits for the others there.
        """
        from psychocounsel.remote.client import NoServerLeft

        arriving = Arriving(shards)
        asked = self._ask(arriving)
        while True:
            lost = False
            try:
                yield from next(asked, ())
            except NoServerLeft:
                lost = True
            alive()
            lost, busy = map(bool, self.world.sum([lost, len(arriving.left())]))
            if lost:
                asked.close()
                self._send(self.version)
                asked = self._ask(arriving)
            elif not busy:
                return

    def write_alone(self, shards: Sequence[Shard], ends: Callable[[], bool]) -> Iterator[tuple[int, list[Group]]]:
        """Implements `Rollout.write_alone`; it ends early if no server answers."""
        from psychocounsel.remote.client import NoServerLeft

        with suppress(NoServerLeft):
            for shards_done in self._ask(Arriving(shards), ends):
                yield from shards_done

    def _ask(
        self, arriving: Arriving, ends: Callable[[], bool] = lambda: False
    ) -> Generator[list[tuple[int, list[Group]]], None, None]:
        """Ask for replies to the prompts that have none; yield the shards that were completed within about a second.

        Raises:
            NoServerLeft: if no server is left for some prompts.
        """
        left, n = arriving.left(), arriving.sampling.n
        prompts, settings = request(arriving.prompts, arriving.sampling)
        common = {"version": self.version, "stop": self.stop}
        payloads = [{**common, "prompts": [prompts[place]], "settings": [settings[place]]} for place in left]
        most = max(1, math.ceil(self.slots / (self.world.size * n)))
        for answers in self.client.as_answered("/generate", payloads, partial(self._read, n), most, ends):
            yield [
                shard
                for number, (address, replies) in answers.items()
                for shard in arriving.add(left[number], self._made(replies, address))
            ]

    def _read(self, n: int, answer: Any, payload: Any) -> list[Any]:
        """Return the `n` replies to the prompt of a request."""
        if answer.get("version") != self.version:
            other = words(str(answer.get("version"))[:200])
            raise ValueError(f"it used version {other} of the weights, not {self.version}")
        (replies,) = answer["replies"]
        if len(replies) != n:
            raise ValueError(f"{len(replies)} replies, not {n}")
        for ids, logprobs in replies:
            if len(ids) != len(logprobs) or not all(type(token) is int and token >= 0 for token in ids):
                raise ValueError("a reply is not token ids with a log-probability each")
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in logprobs):
                raise ValueError("a log-probability is no number")
        return list(replies)

    def _made(self, replies: list[Any], address: str) -> list[Completion]:
        about = (self.tokenizer, self.stop, self.version, address)
        return [completion(ids, logprobs, *about) for ids, logprobs in replies]

    def _send(self, version: int) -> None:
        """Send the policy's weights to all servers that answer.

        A server that misses a part of the weights gets no requests until weights are sent again.

        Raises:
            NoServerLeft: if no server takes them, even after restarts; ServersLost if one took earlier ones.
            UserError: if vLLM lacks some of them (`refuse_missing`).
        """
        from psychocounsel.remote.client import NoServerLeft, ServersLost

        taken, self.slots, why = self._sent(version)
        if not taken:
            taken, self.slots, why = self._sent(version)
        if not taken:
            raise (NoServerLeft if self.version < 0 else ServersLost)(why)
        self.client, self.version = self._client(taken), version

    def _sent(self, version: int) -> tuple[list[str], int, str]:
        """Return the servers that took the weights, the smallest number of replies one of them writes at once, and an error.

        The error is empty if a server took them. The result is the same on all ranks.
        """
        from psychocounsel.rollout.weight_sync import Transfer

        client = self._client(self.world.broadcast(self.ready() if self.world.rank == 0 else None))
        transfer, taken, slots = None, list[str](), 1
        if self.world.rank == 0:
            transfer = Transfer(client, self.transfer, self.world.device, self.timeout_seconds)
            transfer.begin(self.adapter_rank)
        self._send_pieces(transfer)
        if transfer is not None:
            taken = transfer.end(version)
            slots = min((transfer.slots[address] for address in taken), default=1)
        client.close()
        return self.world.broadcast((taken, slots, "" if taken else client.why_none()))

    def _send_pieces(self, transfer: Transfer | None) -> None:
        """Gather the weights on all ranks together, and send them from rank 0, which has a `transfer`.

        On GPU the other ranks queue gathers ahead of rank 0. Those wait as long as every collective of `World`, which is
        longer than the watchdog allows rank 0 to wait for servers.
        """
        from psychocounsel.rollout.weight_sync import weights_of

        if self.adapter is not None:
            self.adapter.write(self.engine)
            if transfer is not None:
                transfer.send_adapter(self.adapter.packed())
            return
        for piece in weights_of(self.engine):
            if transfer is not None:
                transfer.send(piece)

    def _client(self, addresses: list[str]) -> Client:
        from psychocounsel.remote.client import Client

        return Client(
            addresses,
            "rollout",
            timeout_seconds=self.timeout_seconds,
            retries=0,  # a failed request goes to another server at once
            concurrency=min(_MOST_THREADS, len(addresses) * math.ceil(self.slots / self.world.size)),
            key_variable=KEY_VARIABLE,
            direct=self.direct,
            from_last_byte=True,  # a busy server sends a byte each second
        )
