"""GPUs of the rollout servers that a run starts on its own machine: those after the GPUs of its training processes."""

import os
from collections.abc import Sequence

from psychocounsel.errors import UserError


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def gpus_of_servers(visible: Sequence[str], training: int, count: int, each: int) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES of `count` servers of `each` GPUs, taken after the first `training` ones of `visible`.

    Raises:
        UserError: if there are too few GPUs.
    """
    if (spare := len(visible) - training) < count * each:
        raise UserError(too_few_gpus(count, each, spare, training))
    return [",".join(visible[first : first + each]) for first in range(training, training + count * each, each)]


def too_few_gpus(count: int, each: int, spare: int, training: int, nodes: int = 1) -> str:
    """Return the error message for `count` servers of `each` GPUs that do not fit on the `spare` GPUs of rank 0's node.

    `training` GPUs of each of `nodes` nodes train.
    """
    needed, left = count * each, training + spare - count * each
    ways = [f"cluster.processes={left * nodes}"] if left > 0 else []
    ways += ["cluster.server_nodes=1 (cluster=slurm)", "rollout=vllm, which shares the GPUs with training"]
    return (
        f"rollout=vllm_server: rollout.servers={count} with rollout.tensor_parallel={each} need {needed} of a node's GPUs, "
        f"but only {max(0, spare)} are left beside the {training} that train: use {', '.join(ways[:-1])} or {ways[-1]}"
    )
