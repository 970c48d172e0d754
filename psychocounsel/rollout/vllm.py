"""`rollout=vllm`: a vLLM engine in every training process writes the replies with the policy's present weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psychocounsel.errors import UserError
from psychocounsel.rollout.adapters import AdapterFolder
from psychocounsel.rollout.base import Rollout, Sampling, TrainedPolicy, completion
from psychocounsel.rollout.vllm_engine import (
    VLLMEngine,
    prepare_cpu,
    prepare_environment,
    quiet_start,
    replies,
    request,
    sampling_params,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from psychocounsel.data.group import Group
    from psychocounsel.distributed.world import World
    from psychocounsel.model.shape import Shape


_GRAPHS = 51  # batch sizes up to 512: 1, 2, 4, multiples of 8 up to 256, then of 16


@dataclass
class VLLM(VLLMEngine):
    copies_weights = True

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
        arguments = self.arguments(config, engine.dtype, world.device)
        return VLLMRollout(arguments, engine, tokenizer, stop, world)

    def memory(self, shape: Shape, config: DictConfig, samples: int) -> dict[str, float | None]:
        from psychocounsel.model.shape import bytes_of_weight

        weights = bytes_of_weight(config.model.dtype) * shape.parameters / self.tensor_parallel
        share = self.gpu_memory * (config.cluster.get("gpu_memory_gb") or 0) * 1e9 - sum(self.always(shape).values())
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
        return {"gpu_memory": 0.25} if self.gpu_memory > 0.25 else {}


class VLLMRollout(Rollout):
    """Writes replies by an engine in this process; `tensor_parallel` neighbouring processes form one engine.

    On GPU the engine releases its memory while the policy trains. This class has not been tested on GPUs.
    """

    draws_by_prompt = True
    writes_with_a_copy = True

    def __init__(
        self, arguments: dict[str, Any], engine: TrainedPolicy, tokenizer: Any, stop: Sequence[int], world: World
    ) -> None:
        self.engine, self.tokenizer, self.stop = engine, tokenizer, sorted(stop)
        self.sleeps, self.slots = world.device.type == "cuda", arguments["max_num_seqs"]
        self.awake, self.cache_awake, self.version = True, True, -1
        with _inside_training(world), _nondeterministic(), quiet_start("rollout=vllm"):
            prepare_cpu(arguments)
            from vllm import LLM

            self.llm = LLM(**arguments, distributed_executor_backend="external_launcher", enable_sleep_mode=self.sleeps)
        self.adapter = AdapterFolder() if engine.module.adapter is not None else None
        self.lora: Any = None  # vLLM's LoRARequest for the adapter of this version
        self.neighbours = Neighbours(world, arguments["tensor_parallel_size"])
        self.rest()

    def sync(self, version: int) -> None:
        if version == self.version and self.awake:
            return
        if self.sleeps:  # weights first and cache later, so that memory never holds two copies
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
        if self.sleeps:
            # Level 1 keeps the base model in host memory. Level 2 drops the weights: the policy sends them again.
            self.llm.sleep(level=1 if self.adapter else 2)
            self.awake = self.cache_awake = False

    def prompts_at_once(self, n: int) -> int:
        """Return the number of prompts that gives twice as many replies as the engine writes at once.

        With fewer, many of the engine's slots would be idle before the last reply is finished.
        """
        return math.ceil(2 * self.slots / (n * self.neighbours.size))

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        """Implements `Rollout.generate`; a prompt's replies are drawn with its seed (`Sampling.seed_of`)."""
        if not self.cache_awake:  # only now, because the policy's weights may have left the GPU since `sync`
            self.llm.wake_up(tags=["kv_cache"])
            self.llm.reset_prefix_cache()
            self.cache_awake = True
        requests = self.neighbours.gather(request(groups, sampling))
        prompts = [prompt for part in requests for prompt in part[0]]
        settings = [setting for part in requests for setting in part[1]]
        if not prompts:
            return []
        inputs: Any = [{"prompt_token_ids": ids} for ids in prompts]
        parameters = [sampling_params(setting, self.stop) for setting in settings]
        with _nondeterministic():
            outputs = self.llm.generate(inputs, parameters, use_tqdm=False, lora_request=self.lora)
        first = sum(len(part[0]) for part in requests[: self.neighbours.place])
        return [
            replace(
                group,
                completions=[completion(*reply, self.tokenizer, self.stop, self.version) for reply in replies(output)],
            )
            for group, output in zip(groups, outputs[first : first + len(groups)], strict=True)
        ]


class Neighbours:
    """Group of `size` processes that form one engine; this process has number `place`."""

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
