"""The environment variables of a process that starts vLLM."""

import os

from psychocounsel.remote.hub import set_cache_directories


def prepare_environment(cache: str | None = None) -> None:
    """Set the variables of this process and those that it starts; to be called before torch asks for GPUs.

    vLLM's own files go below `cache` (`paths.cache`; None: where the command has them), and it tells nobody that it is used.
    """
    if cache:
        set_cache_directories(cache)
    os.environ |= {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a process that is forked from one with CUDA can use no GPU
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # counting GPUs then starts no CUDA
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
