"""Environment variables of processes that start vLLM."""

import os

from psychocounsel.remote.hub import set_cache_directories


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
