"""`rollout=vllm`: an engine of vLLM in every training process writes the replies, with the weights of that moment."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psychocounsel.errors import UserError
from psychocounsel.rollout.base import Rollout, Sampling, TrainedPolicy, completion
from psychocounsel.rollout.quiet_start import quiet_start
from psychocounsel.rollout.vllm_engine import VLLMEngine, prepare_cpu, replies, request, sampling_params
from psychocounsel.rollout.vllm_environment import prepare_environment
from psychocounsel.rollout.weight_sync.adapters import AdapterFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from psychocounsel.data.group import Group
    from psychocounsel.distributed.world import World
    from psychocounsel.model.shape import Shape


_GRAPHS = 51  # sizes of batches up to 512: 1, 2, 4, every 8th to 256, every 16th from there


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
        """Start an engine beside the policy's. All ranks call it together."""
        if self.tensor_parallel > 1 and world.device.type == "cpu":
            raise UserError(
                f"rollout.tensor_parallel={self.tensor_parallel}: engines over several processes meet under one name on a "
                "machine's CPU, where others may be; use 1, or rollout=vllm_server"
            )
        if world.device.type == "cuda":
            from psychocounsel.model.gpu.compiler import require_compiler

            require_compiler("rollout=vllm", "rollout=hf")
        prepare_environment(config.paths.cache)
        arguments = self.arguments(config, engine.dtype, world.device)
        return VLLMRollout(arguments, engine, tokenizer, stop, world)

    def memory(self, shape: Shape, config: DictConfig, samples: int) -> dict[str, float | None]:
        from psychocounsel.model.shape import bytes_of_weight

        weights = bytes_of_weight(config.model.dtype) * shape.parameters / self.tensor_parallel
        share = self.gpu_memory * (config.cluster.get("gpu_memory_gb") or 0) * 1e9 - sum(self.always(shape).values())
        return {"engine of vLLM": max(weights, share)}  # where the GPU's size is not known, at least its weights

    def always(self, shape: Shape) -> dict[str, float]:
        """CUDA graphs: sleeping frees weights and cache, and no graphs, which lie outside of vLLM's own memory pool.

        vLLM captures 51 sizes of batches, each whole and in a part for every layer. It reckons with 1 MiB for a whole one at
        least; half of that for a part is an assumption, not measured here.
        """
        return {} if self.eager else {"graphs of vLLM": _GRAPHS * (1 << 20) * (1 + shape.layers / 2)}

    def smaller(self) -> dict[str, Any]:
        return {"gpu_memory": 0.25} if self.gpu_memory > 0.25 else {}


class VLLMRollout(Rollout):
    """Writes replies by an engine in this process; `tensor_parallel` neighbouring processes are one engine.

    On GPU the engine's memory is given back while the policy trains. There, nothing of this has been run.
    """

    draws_by_prompt = True

    def __init__(
        self, arguments: dict[str, Any], engine: TrainedPolicy, tokenizer: Any, stop: Sequence[int], world: World
    ) -> None:
        self.engine, self.tokenizer, self.stop = engine, tokenizer, sorted(stop)
        self.sleeps, self.slots = world.device.type == "cuda", arguments["max_num_seqs"]
        self.awake, self.cache_awake, self.version = True, True, -1
        with _inside_training(world), quiet_start("rollout=vllm"):
            prepare_cpu(arguments)
            from vllm import LLM

            self.llm = LLM(**arguments, distributed_executor_backend="external_launcher", enable_sleep_mode=self.sleeps)
        self.adapter = AdapterFolder() if engine.module.adapter is not None else None
        self.lora: Any = None  # vLLM's request for the adapter of this version
        self.neighbours = Neighbours(world, arguments["tensor_parallel_size"])
        self.rest()

    def sync(self, version: int) -> None:
        if version == self.version and self.awake:
            return
        if self.sleeps:  # one after another, so that memory never holds both twice
            self.llm.wake_up(tags=["weights"])
        self._take_adapter(self.adapter) if self.adapter else self._take_weights()
        self.awake, self.cache_awake, self.version = True, not self.sleeps, version
        if self.cache_awake:
            self.llm.reset_prefix_cache()

    def _take_weights(self) -> None:
        from psychocounsel.rollout.weight_sync.weights import weights_of

        self.llm.collective_rpc("begin_weights")
        for piece in weights_of(self.engine):
            self.llm.collective_rpc("take_weights", args=(piece,))
        self.llm.collective_rpc("end_weights")

    def _take_adapter(self, adapter: AdapterFolder) -> None:
        adapter.write(self.engine)
        if self.lora is not None:
            self.llm.llm_engine.remove_lora(self.lora.lora_int_id)
        self.lora = adapter.request()
        self.llm.llm_engine.add_lora(self.lora)

    def rest(self) -> None:
        if (
            self.sleeps
        ):  # 1: the base of adapters waits in host memory; 2: weights are given up, and come from the policy
            self.llm.sleep(level=1 if self.adapter else 2)
            self.awake = self.cache_awake = False

    def prompts_at_once(self, n: int) -> int:
        """Twice as many replies as the engine writes at once, so that few slots are empty before the end."""
        return math.ceil(2 * self.slots / (n * self.neighbours.size))

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        """As Rollout says; a reply's random numbers come from `sampling.seed`, its prompt's place and its own."""
        if not self.cache_awake:  # not before now: the policy's weights may have left the GPU since `sync`
            self.llm.wake_up(tags=["kv_cache"])
            self.llm.reset_prefix_cache()
            self.cache_awake = True
        asked = self.neighbours.gather(request(groups, sampling))
        prompts, settings = [each for part in asked for each in part[0]], [each for part in asked for each in part[1]]
        if not prompts:
            return []
        inputs: Any = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self.llm.generate(
            inputs,
            [sampling_params(each, self.stop) for each in settings],
            use_tqdm=False,
            lora_request=self.lora,
        )
        first = sum(len(part[0]) for part in asked[: self.neighbours.place])
        return [
            replace(
                group,
                completions=[completion(*each, self.tokenizer, self.stop, self.version) for each in replies(output)],
            )
            for group, output in zip(groups, outputs[first : first + len(groups)], strict=True)
        ]


class Neighbours:
    """The `size` processes that are one engine together, of which this one is number `place`."""

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
    """What an engine needs to know to start in a process of training, and to leave it as it was."""
    import torch

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ |= {"RANK": str(world.rank), "WORLD_SIZE": str(world.size)}
    os.environ.setdefault("LOCAL_RANK", str(world.rank))
    kept = {
        name: os.environ.get(name) for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "TORCHDYNAMO_DISABLE")
    }  # for processes started later
    set_num_threads = torch.set_num_threads
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads  # vLLM puts one there that does nothing
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
