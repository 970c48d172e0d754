"""Which GPUs the servers have that a run starts on its own machine: those after the GPUs of its processes."""

import os
from collections.abc import Sequence

from psychocounsel.errors import UserError


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def gpus_of_servers(visible: Sequence[str], training: int, count: int, each: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of `count` servers of `each` GPUs: those of `visible` after the `training` processes' own.

    Raises:
        UserError: if there are too few.
    """
    if (spare := len(visible) - training) < count * each:
        raise UserError(too_few_gpus(count, each, spare, training))
    return [",".join(visible[first : first + each]) for first in range(training, training + count * each, each)]


def too_few_gpus(count: int, each: int, spare: int, training: int, nodes: int = 1) -> str:
    """That `count` servers of `each` GPUs do not fit on the `spare` ones of rank 0's node, one of `nodes` that train alike."""
    needed, left = count * each, training + spare - count * each
    ways = [f"cluster.processes={left * nodes}"] if left > 0 else []
    ways += ["cluster.server_nodes=1 (cluster=slurm)", "rollout=vllm, which shares the GPUs with training"]
    return (
        f"rollout=vllm_server: rollout.servers={count} with rollout.tensor_parallel={each} need {needed} of a node's GPUs for "
        f"themselves, and {max(0, spare)} are left beside its {training} of training: use {', '.join(ways[:-1])} or {ways[-1]}"
    )
