"""Estimated host memory of a run on GPUs, on each of its machines, without torch."""

import math

from omegaconf import DictConfig

from psychocounsel.cluster.memory.fitting import choose, is_open, with_values
from psychocounsel.cluster.memory.gpu import (
    estimate,
    learned_weights,
    parts_of_states,
    trained_parameters,
    trained_shape,
)
from psychocounsel.errors import UserError
from psychocounsel.model.shape import Shape
from psychocounsel.settings import config as configs

_PROCESS = 3e9  # PyTorch, CUDA and the other libraries of a process: an assumption, not measured on a GPU
_SPARE = 1.5  # DeepSpeed's own factor for buffers of offloaded state: `additional_buffer_factor` of its estimators


def host_line(config: DictConfig, gpus: int, machines: int, gpu_gb: float | None, limit: float | None) -> list[str]:
    """Return a line with the host memory on each of `machines` of a run on `gpus` GPUs; none if it is unknown.

    `gpu_gb`: size of a GPU, by which values for `auto` are chosen; None: unknown. `limit`: bytes that a machine offers.
    """
    shape = trained_shape(config)
    if shape is None or ("zero.stage" in is_open(config) and not gpu_gb):
        return []
    parts = host_parts(shape, with_values(config, choose(shape, config, gpus, gpu_gb or 0.0)), gpus, machines)
    total, of = sum(parts.values()), f" of {limit / 1e9:.0f} GB" if limit else ""
    where = "the machine" if machines == 1 else f"each of {machines} machines"
    listed = ", ".join(f"{part} {bytes_ / 1e9:.1f}" for part, bytes_ in parts.items())
    line = f"{config.model.name}: host memory on {where}: about {total / 1e9:.0f} GB{of} ({listed})"
    return [f"{line}; MORE THAN {_offer(config)}. {_less(config, total)}" if limit and total > limit else line]


def refuse_too_little(config: DictConfig, gpus: int, machines: int, limit: float | None) -> None:
    """Refuse a run that needs more host memory than the `limit` [bytes] of a machine; None: unknown, as is a model's size.

    Raises:
        UserError: with the needed memory and what to type.
    """
    shape = trained_shape(config)
    if shape is None or limit is None:
        return
    total = sum(host_parts(shape, config, gpus, machines).values())
    if total > limit:
        raise UserError(
            f"{config.model.name} needs about {total / 1e9:.0f} GB of host memory on each machine, more than "
            f"{_offer(config)}. {_less(config, total)} (engine.check_memory=false starts it anyway)"
        )


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


def _offer(config: DictConfig) -> str:
    memory = config.cluster.get("memory")
    return f"cluster.memory={memory}" if memory else "this machine has"


def _less(config: DictConfig, total: float) -> str:
    """Return what to type instead."""
    typed = [f"cluster.memory={math.ceil(total / 2**30)}G"] if config.cluster.get("memory") else []
    if config.get("rollout") is not None and config.rollout.offload_idle:
        typed += ["zero=2"] if config.zero.stage == 1 else []  # stage 1 moves whole float32 gradients
        typed.append("rollout.offload_idle=false")
    if config.checkpoint.background:
        typed.append("checkpoint.background=false")
    return f"Use {' or '.join(typed)}" if typed else "Use more machines"
