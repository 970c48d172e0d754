"""`rollout=vllm`: a vLLM engine in every training process writes the replies with the policy's present weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psychocounsel.errors import UserError
from psychocounsel.rollout.adapters import AdapterFolder
from psychocounsel.rollout.base import Arriving, Rollout, Sampling, Shard, TrainedPolicy, completion
from psychocounsel.rollout.vllm_engine import (
    VLLMEngine,
    prepare_cpu,
    prepare_environment,
    quiet_start,
    replies,
    request,
    sampling_params,
)
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Completion, Group
    from psychocounsel.distributed.world import World
    from psychocounsel.model.shape import Shape


_FRACTION = 0.4  # of the GPU, beside training state that stays there
_SPARE = 5e9  # bytes for buffers that training makes later (NCCL, kernels) and CUDA graphs: not measured
_LEAST_REPLIES = 16  # of `max_length` tokens; an engine with less cache would write slowly
_LOOK_SECONDS = 1.0  # between two looks at the other ranks, and for stop requests
_GRAPHS = 51  # batch sizes up to 512: 1, 2, 4, multiples of 8 up to 256, then of 16


@dataclass
class VLLM(VLLMEngine):
    copies_weights = True

    gpu_memory: float | str = option("auto", above=0, below=1, word="auto")

    def check(self, config: DictConfig, processes: int) -> None:
        super().check(config, processes)
        if processes % self.tensor_parallel:
            raise UserError(
                f"rollout.tensor_parallel={self.tensor_parallel} must divide the run's {processes} processes"
            )

    def open(
        self, config: DictConfig, engine: TrainedPolicy, tokenizer: Any, stop: Sequence[int], world: World
    ) -> VLLMRollout:
        """Start an engine in addition to the policy's. All ranks call it together."""
        if self.tensor_parallel > 1 and world.device.type == "cpu":
            raise UserError(
                f"rollout.tensor_parallel={self.tensor_parallel}: on CPU, engines over several processes share one name "
                "per machine and could collide; use 1, or rollout=vllm_server"
            )
        if world.device.type == "cuda":
            from psychocounsel.model.gpu import require_compiler

            require_compiler("rollout=vllm", "rollout=hf")
        prepare_environment(config.paths.cache)
        arguments = self.arguments(config, engine.dtype, world.device, self.fraction(config, world.device))
        return VLLMRollout(arguments, engine, tokenizer, stop, world)

    def fraction(self, config: DictConfig, device: torch.device) -> float:
        """Return the engine's fraction of the GPU: `gpu_memory`; for "auto" what is free now that training state has left."""
        if self.gpu_memory != "auto":
            return float(self.gpu_memory)
        if device.type == "cpu" or not config.rollout.offload_idle:
            return _FRACTION
        _free_cached()
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return (free - _SPARE) / total

    def memory(self, shape: Shape, config: DictConfig, samples: int) -> dict[str, float | None]:
        """Return the memory of the engine; for "auto" with `rollout.offload_idle` the least that it should find free."""
        from psychocounsel.model.shape import bytes_of_weight

        width = bytes_of_weight(config.model.dtype)
        weights = width * shape.parameters / self.tensor_parallel
        if self.gpu_memory == "auto" and config.rollout.offload_idle:
            cache = _LEAST_REPLIES * config.max_length * shape.cached() * width / self.tensor_parallel
            return {"engine of vLLM, at least": weights + cache}
        fraction = _FRACTION if self.gpu_memory == "auto" else float(self.gpu_memory)
        share = fraction * (config.cluster.get("gpu_memory_gb") or 0) * 1e9 - sum(self.always(shape).values())
        return {"engine of vLLM": max(weights, share)}  # at least the weights, if the GPU's size is unknown

    def always(self, shape: Shape) -> dict[str, float]:
        """Return the memory of CUDA graphs, which sleeping does not free, because they lie outside of vLLM's memory pool.

        vLLM captures 51 batch sizes, each as a whole graph and as one part per layer. vLLM itself assumes at least 1
        MiB for a whole graph. Half of that for a part is our assumption and was not measured.
        """
        return {} if self.eager else {"graphs of vLLM": _GRAPHS * (1 << 20) * (1 + shape.layers / 2)}

    def on_host(self, shape: Shape, config: DictConfig) -> dict[str, float]:
        """Return the base model of adapters, which a sleeping engine keeps in host memory (`VLLMRollout.rest`)."""
        from psychocounsel.model.shape import bytes_of_weight

        weights = bytes_of_weight(config.model.dtype) * shape.parameters / self.tensor_parallel
        return {"sleeping vLLM": weights} if config.model.lora.rank else {}

    def smaller(self) -> dict[str, Any]:
        return {"gpu_memory": 0.25} if self.gpu_memory == "auto" or float(self.gpu_memory) > 0.25 else {}


class VLLMRollout(Rollout):
    """Writes replies by an engine in this process; `tensor_parallel` neighbouring processes form one engine.

    On GPU the engine releases its memory while the policy trains. It was tested on one GPU, not with tensor parallelism.
    """

    draws_by_prompt = True
    writes_with_a_copy = True

    def __init__(
        self, arguments: dict[str, Any], engine: TrainedPolicy, tokenizer: Any, stop: Sequence[int], world: World
    ) -> None:
        self.engine, self.tokenizer, self.stop, self.world = engine, tokenizer, sorted(stop), world
        self.sleeps = world.device.type == "cuda"
        self.awake, self.cache_awake, self.version = True, True, -1
        with _inside_training(world), _nondeterministic(), quiet_start("rollout=vllm"):
            prepare_cpu(arguments)
            from vllm import LLM

            self.llm = LLM(**arguments, distributed_executor_backend="external_launcher", enable_sleep_mode=self.sleeps)
        self.adapter = AdapterFolder() if engine.module.adapter is not None else None
        self.lora: Any = None  # vLLM's LoRARequest for the adapter of this version
        self.neighbours = Neighbours(world, arguments["tensor_parallel_size"])
        self.name = f"the engine of process {world.rank - self.neighbours.place}"
        self.rest()

    def sync(self, version: int) -> None:
        if version == self.version and self.awake:
            return
        if self.sleeps:  # weights first and cache later, so that memory never holds two copies
            _free_cached()
            self.llm.wake_up(tags=["weights"])
        self._take_adapter(self.adapter) if self.adapter else self._take_weights()
        self.awake, self.cache_awake, self.version = True, not self.sleeps, version
        if self.cache_awake:
            self.llm.reset_prefix_cache()

    def _take_weights(self) -> None:
        from psychocounsel.rollout.weight_sync import refuse_missing, weights_of

        self.llm.collective_rpc("begin_weights")
        for piece in weights_of(self.engine):
            self.llm.collective_rpc("take_weights", args=(piece,))
        (missing,) = self.llm.collective_rpc("end_weights")
        refuse_missing("rollout=vllm", missing)

    def _take_adapter(self, adapter: AdapterFolder) -> None:
        adapter.write(self.engine)
        if self.lora is not None:
            self.llm.llm_engine.remove_lora(self.lora.lora_int_id)
        self.lora = adapter.request()
        self.llm.llm_engine.add_lora(self.lora)

    def rest(self) -> None:
        if self.sleeps and self.awake:
            # Replies in progress are dropped. Level 1 keeps the base model in host memory. Level 2 drops the weights: the
            # policy sends them again.
            self.llm.sleep(level=1 if self.adapter else 2)
            self.awake = self.cache_awake = False

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        """Implements `Rollout.generate`; a prompt's replies are drawn with its seed (`Sampling.seed_of`)."""
        return dict(self.write([(list(groups), sampling)], lambda: None)).get(0, [])

    def write(self, shards: Sequence[Shard], alive: Callable[[], None]) -> Iterator[tuple[int, list[Group]]]:
        """Implements `Rollout.write`. The engine gets all prompts at once and begins the next when one of its slots is free.

        Ranks look at each other once a second, so one that is finished waits for the others there.
        """
        if not self.cache_awake:  # only now, because the policy's weights may have left the GPU since `sync`
            _free_cached()
            self.llm.wake_up(tags=["kv_cache"])
            self.llm.reset_prefix_cache()
            self.cache_awake = True
        arriving, engine = Arriving(shards), self.llm.llm_engine
        first, looked = self._add(arriving), -_LOOK_SECONDS
        while True:
            busy = engine.has_unfinished_requests()
            if not busy or self.neighbours.any(time.monotonic() - looked >= _LOOK_SECONDS):
                alive()
                if not self.world.any(busy):
                    return
                looked = time.monotonic()
            for output in self._step() if busy else ():
                place = int(output.request_id) - first
                if 0 <= place < len(arriving.prompts):  # a prompt of this process
                    yield from arriving.add(place, [self._made(*reply) for reply in replies(output)])

    def _made(self, ids: list[int], logprobs: list[float]) -> Completion:
        return completion(ids, logprobs, self.tokenizer, self.stop, self.version, self.name)

    def _add(self, arriving: Arriving) -> int:
        """Give the prompts of all neighbours to the engine, numbered; return the number of this process's first one."""
        requests = self.neighbours.gather(request(arriving.prompts, arriving.sampling))
        everyone = [one for part in requests for one in zip(*part, strict=True)]
        for number, (prompt, settings) in enumerate(everyone):
            inputs: Any = {"prompt_token_ids": prompt}
            drawn = sampling_params(settings, self.stop)
            self.llm.llm_engine.add_request(str(number), inputs, drawn, lora_request=self.lora)
        return sum(len(part[0]) for part in requests[: self.neighbours.place])

    def _step(self) -> list[Any]:
        """Let the engine make the next token of all replies in its slots; return the prompts whose replies are finished."""
        with _nondeterministic():
            return list(self.llm.llm_engine.step())


def _free_cached() -> None:
    """Return memory that PyTorch keeps for later tensors to the GPU, for vLLM's own pool."""
    import torch

    torch.cuda.empty_cache()


class Neighbours:
    """Group of `size` processes that form one engine; this process has number `place`.

    They must make the same steps, because each step of the engine computes on all of them.
    """

    def __init__(self, world: World, size: int) -> None:
        import torch.distributed as dist

        self.size, self.place = size, world.rank % size
        groups = (
            [dist.new_group(list(range(first, first + size))) for first in range(0, world.size, size)]
            if size > 1
            else []
        )
        self.group = groups[world.rank // size] if groups else None

    def gather(self, value: Any) -> list[Any]:
        if self.group is None:
            return [value]
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))


@contextmanager
def _inside_training(world: World) -> Iterator[None]:
    """Set the environment that an engine needs to start in a training process, and restore the process state afterwards."""
    import torch

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ |= {"RANK": str(world.rank), "WORLD_SIZE": str(world.size)}
    os.environ.setdefault("LOCAL_RANK", str(world.rank))
    # These variables are restored for processes that start later.
    kept = {name: os.environ.get(name) for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "TORCHDYNAMO_DISABLE")}
    set_num_threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads  # vLLM replaces it by a function that does nothing
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _nondeterministic() -> Iterator[None]:
    """Allow all operations in this block, because vLLM accumulates floats, which `deterministic=true` refuses on GPU."""
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
