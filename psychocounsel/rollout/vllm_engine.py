"""Common parts of all vLLM rollouts: engine settings, requests and results."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from omegaconf import OmegaConf

from psychocounsel.errors import UserError, words
from psychocounsel.remote.hub import set_cache_directories
from psychocounsel.rollout.adapters import engine_rank
from psychocounsel.rollout.base import RolloutSettings, Sampling
from psychocounsel.rundir.run import engine_log
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Group


Reply = tuple[list[int], list[float]]  # token ids and their log-probabilities


@dataclass
class VLLMEngine(RolloutSettings):
    """Settings of a vLLM engine, wherever it runs."""

    other_engine = True

    tensor_parallel: int = option(1, at_least=1)
    max_sequences: int = option(768, at_least=1)
    cpu_cache_gb: float = option(1.0, above=0)
    eager: bool = False

    def lacking(self) -> str:
        if importlib.util.find_spec("vllm") is not None:
            return ""
        return (
            "rollout: vLLM is not installed; see docs/online.md#vllm (make vllm on CPU, pip install 'psychocounsel[vllm]' on "
            "GPU), or use rollout=hf"
        )

    def check(self, config: DictConfig, processes: int) -> None:
        """Reject settings that vLLM cannot work with, and a missing vLLM.

        A missing package is accepted for a dry run, which reports it, and for a container, whose image provides it.

        Raises:
            UserError: naming the setting.
        """
        runs_here = not (config.get("dry_run") or OmegaConf.select(config, "cluster.container.image"))
        if runs_here and (lacking := self.lacking()):
            raise UserError(lacking)
        check_weights(config)

    def arguments(
        self, config: DictConfig, dtype: torch.dtype, device: torch.device, gpu_memory: float
    ) -> dict[str, Any]:
        """Return vLLM's engine arguments; `gpu_memory` is the fraction of the GPU for weights and cache.

        The policy sends the weights; with adapters, the base model is loaded from disk.
        """
        from psychocounsel.model.tokenizer import resolve_path
        from psychocounsel.rollout.weight_sync import WORKER_EXTENSION

        memory: dict[str, Any] = {"gpu_memory_utilization": gpu_memory}
        if device.type == "cpu":
            memory = {"kv_cache_memory_bytes": int(self.cpu_cache_gb * (1 << 30))}
            # Chunked prefill must rewind the random state after all but the last part of a prompt. vLLM on CPU cannot.
            memory |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, config.max_length)}
        weights: dict[str, Any] = {"load_format": "dummy"}
        if rank := config.model.lora.rank:
            weights = {"load_format": "auto", "enable_lora": True, "max_loras": 1, "max_lora_rank": engine_rank(rank)}
        return (
            memory
            | weights
            | {
                "model": resolve_path(config.model.path),
                "revision": config.model.revision,
                "skip_tokenizer_init": True,
                "generation_config": "vllm",
                "dtype": str(dtype).removeprefix("torch."),
                "seed": config.seed,
                "max_model_len": config.max_length,
                "max_num_seqs": self.max_sequences,
                "tensor_parallel_size": self.tensor_parallel,
                # Compiling for CPU takes minutes and needs a compiler.
                "enforce_eager": self.eager or device.type == "cpu",
                "logprobs_mode": "processed_logprobs",  # log-probabilities of the distribution that tokens are drawn from
                "disable_log_stats": True,
                "worker_extension_cls": WORKER_EXTENSION,
            }
        )


def check_weights(config: DictConfig) -> None:
    """Reject a policy that no vLLM engine can serve.

    Raises:
        UserError: naming the setting.
    """
    if config.model.quantise:
        raise UserError(f"model.quantise={config.model.quantise}: vLLM cannot load quantised weights; use rollout=hf")
    if config.model.lora.rank:
        engine_rank(config.model.lora.rank)


def prepare_cpu(arguments: dict[str, Any]) -> None:
    """Prepare vLLM for CPU. Call it before vLLM's engine is imported; it does nothing on other devices.

    vLLM's small compiled functions then run uncompiled, here and in its processes, because a C++ compiler may be
    missing.

    Raises:
        UserError: if vLLM's CPU attention does not support the size of the model's heads.
    """
    from transformers import AutoConfig
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    type(current_platform).simple_compile_backend = "eager"
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    model = AutoConfig.from_pretrained(arguments["model"], revision=arguments["revision"]).get_text_config()
    size = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    if size not in (sizes := CPUAttentionBackend.get_supported_head_sizes()):
        raise UserError(
            f"the model's heads have {size} dimensions, but vLLM on CPU supports only {', '.join(map(str, sizes))}; "
            "use rollout=hf"
        )


def request(groups: Sequence[Group], sampling: Sampling) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Return the prompts' token ids, and the sampling parameters of each prompt."""
    settings = []
    for place, group in enumerate(groups):
        limit = min(sampling.max_tokens, sampling.max_length - len(group.prompt_ids))
        common = {
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
        settings.append(common | {"max_tokens": limit, "seed": sampling.seed_of(place)})
    return [group.prompt_ids.tolist() for group in groups], settings


def sampling_params(settings: dict[str, Any], stop: Sequence[int]) -> Any:
    """Return vLLM's SamplingParams from one prompt's settings (see `request`) and the ids of stop tokens."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        **settings,
        stop_token_ids=list(stop),
        ignore_eos=True,  # only the stop tokens of training end a reply
        logprobs=0,  # only of the drawn tokens
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def replies(output: Any) -> list[Reply]:
    """Return the replies in a vLLM RequestOutput."""
    return [
        (
            list(reply.token_ids),
            [candidates[token].logprob for token, candidates in zip(reply.token_ids, reply.logprobs, strict=True)],
        )
        for reply in output.outputs
    ]


# Start of vLLM: variables of the environment, and output that goes to the attempt's log


def prepare_environment(cache: str | None = None) -> None:
    """Set the variables of this process and its children. Call it before torch looks for GPUs.

    vLLM's own files go below `cache` (`paths.cache`; None: the command's cache). Its usage reports are switched off.
    """
    if cache:
        set_cache_directories(cache)
    os.environ |= {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a process forked after CUDA started cannot use a GPU
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # counts GPUs without starting CUDA
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def quiet_start(what: str) -> Iterator[None]:
    """Keep the output of a starting vLLM engine off the terminal; errors name the setting `what`.

    The output goes to the run's `engine_log`, which survives even if the process is aborted.

    Raises:
        UserError: if the start fails, after all of its output was printed.
    """
    shown = os.dup(1), os.dup(2)
    with _log() as log:
        start = log.seek(0, os.SEEK_END)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        finally:
            for number, descriptor in enumerate(shown, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        if failure is not None:
            log.seek(start)
            os.write(2, log.read())
            line = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
            raise UserError(f"{what}: the engine could not start: {words(line[:300])}") from failure


def _log() -> IO[bytes]:
    file = engine_log()
    return open(file, "a+b") if file else tempfile.TemporaryFile()
