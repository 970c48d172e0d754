"""Estimated host memory of a run on GPUs, on each of its machines, without torch."""

import math
from dataclasses import dataclass

from omegaconf import DictConfig

from psychocounsel.cluster.memory.gpu import estimate, learned_weights, parts_of_states, trained_parameters
from psychocounsel.model.shape import Shape
from psychocounsel.settings import config as configs

_PROCESS = 3e9  # PyTorch, CUDA and the other libraries of a process: an assumption, not measured on a GPU
_SPARE = 1.5  # DeepSpeed's own factor for buffers of offloaded state: `additional_buffer_factor` of its estimators


@dataclass(frozen=True)
class Machines:
    """The machines of a run: their number, and the bytes of memory that the run may use on each (None: unknown)."""

    count: int = 1
    memory: float | None = None


UNKNOWN = Machines()


def fits_host(shape: Shape, config: DictConfig, gpus: int, machines: Machines) -> bool:
    """Return True if the estimated host memory of a run on `gpus` GPUs in all fits its machines, or their size is unknown."""
    return machines.memory is None or sum(host_parts(shape, config, gpus, machines.count).values()) <= machines.memory


def host_parts(shape: Shape, config: DictConfig, gpus: int, machines: int) -> dict[str, float]:
    """Return the bytes on each of `machines` by purpose, for a run on `gpus` GPUs in all; nothing in `config` is "auto"."""
    processes, trained, zero = gpus / machines, trained_parameters(shape, config), config.zero
    parts = {"processes": _PROCESS * processes}
    if zero.offload_optimizer:  # as DeepSpeed's estimators count it
        parts["offloaded optimizer"] = _SPARE * (18 if zero.offload_parameters else 16) * trained / machines
    if config.checkpoint.background:  # float32 weights and moments; every rank copies its part
        parts["copies for checkpoints"] = 12 * trained / machines
    if config.get("rollout") is None:
        return parts
    rollout = configs.build(config, "rollout")
    if config.rollout.offload_idle:
        if rollout.shares_gpus:
            parts["idle training state"] = processes * idle_state(shape, config, gpus)
        if frozen := sum(estimate(shape, config, gpus).frozen.values()):
            parts["frozen models"] = frozen  # the ranks of a machine share one copy
    return parts | {name: processes * bytes_ for name, bytes_ in rollout.on_host(shape, config).items()}


def idle_state(shape: Shape, config: DictConfig, gpus: int) -> float:
    """Return the pinned bytes of each process for its training state during generation (`rollout.offload_idle`)."""
    zero, policy = config.zero, learned_weights(shape, config)
    critic = trained_parameters(shape, config) - policy
    leaves = configs.target_class(config, "rollout").copies_weights
    base = parts_of_states(shape, config, gpus)["weights"] - 6 * policy if config.model.lora.rank and leaves else 0.0
    share = gpus if zero.stage else 1
    total = pinned(base)
    for parameters, with_weights in ((policy, leaves), (critic, True)):
        if not zero.offload_optimizer:  # masters and both moments, and the gradients that a stage keeps between steps
            total += 3 * pinned(4 * parameters / share)
            total += pinned({1: 4 * parameters, 3: 4 * parameters / gpus}.get(zero.stage, 0.0))
        if with_weights:
            total += pinned(2 * parameters / (gpus if zero.stage == 3 else 1))
    return total


def pinned(bytes_: float) -> float:
    """Return the bytes that PyTorch reserves for a pinned block: the next power of two."""
    return float(2 ** math.ceil(math.log2(bytes_))) if bytes_ >= 1 else 0.0
