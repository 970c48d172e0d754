"""Settings that fit the memory: the values chosen for `auto`, and advice if a run is too large."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.cluster.memory.gpu import estimate
from psychocounsel.cluster.memory.host import UNKNOWN, Machines, fits_host
from psychocounsel.errors import UserError
from psychocounsel.model.shape import Shape
from psychocounsel.settings import config as configs

_GB = 1e9
SHARE = 0.9  # share of a GPU that a run without gradient checkpointing may fill, because the estimate is not exact
_SMALL = 250e6  # weights of a model whose activations need little memory on CPU
AUTOMATIC = {  # for each key that may be "auto", the keys that are chosen with it
    "zero.stage": ("zero.stage", "zero.offload_optimizer", "zero.offload_parameters"),
    "model.gradient_checkpointing": ("model.gradient_checkpointing",),
}
# The choices that `auto` tries, least communication first: (stage, optimizer in host memory, parameters in host memory).
_LADDER = (
    (0, False, False),
    (1, False, False),
    (2, False, False),
    (3, False, False),
    (2, True, False),
    (3, True, True),
)


def on_gpus_of(config: DictConfig, limit_gb: float) -> DictConfig:
    """Return a copy of `config` with this size of a GPU, because vLLM's share of the memory depends on it."""
    copy = config.copy()
    with open_dict(copy.cluster):
        copy.cluster.gpu_memory_gb = limit_gb
    return copy


def fits(shape: Shape, config: DictConfig, gpus: int, limit_gb: float) -> bool:
    """Return True if the estimated memory of a run fits GPUs of `limit_gb` [10^9 bytes]."""
    return estimate(shape, on_gpus_of(config, limit_gb), gpus).total <= limit_gb * _GB


def is_open(config: DictConfig) -> list[str]:
    """Return the keys of `config` that are still "auto"."""
    return [key for key in AUTOMATIC if OmegaConf.select(config, key) == "auto"]


def choose(
    shape: Shape | None, config: DictConfig, gpus: int, limit_gb: float, machines: Machines = UNKNOWN
) -> dict[str, Any]:
    """Return values for all `auto` keys: the first that fit `gpus` GPUs of `limit_gb` and the memory of their `machines`.

    If none fits both, the first that fits the GPUs is returned, otherwise the last.

    All stages are tried without gradient checkpointing and offloading first, then with them. Without GPUs the stage is 0,
    and only large models use checkpointing. Typed values are kept: typed offloading restricts the stages.

    Raises:
        UserError: if `zero=auto` and the model's size is unknown.
    """
    keys = is_open(config)
    if not keys:
        return {}
    if not gpus:
        checkpoints = shape is None or shape.parameters > _SMALL
        return _open_values(keys, _values(0, False, False) | {"model.gradient_checkpointing": checkpoints})
    if shape is None and "zero.stage" in keys:
        raise UserError(f"zero=auto: the size of model.path={config.model.path} is unknown; give zero=0, 1, 2 or 3")
    if shape is None:
        return {"model.gradient_checkpointing": True}
    tried = [_open_values(keys, values) for values in _tried(config, gpus, "zero.stage" in keys)]
    fitting = []
    for values in tried:
        share = 1 if values.get("model.gradient_checkpointing", True) else SHARE
        if fits(shape, with_values(config, values), gpus, limit_gb * share):
            fitting.append(values)
    small = (values for values in fitting if fits_host(shape, with_values(config, values), gpus, machines))
    return next(small, fitting[0] if fitting else tried[-1])


def _tried(config: DictConfig, gpus: int, any_stage: bool) -> Iterator[dict[str, Any]]:
    """Yield the combinations to try, in order."""
    stages = [choice for choice in _LADDER if _may_be(config, gpus, *choice)] if any_stage else [_LADDER[0]]
    for checkpoints in (False, True):
        for stage, optimizer, parameters in stages:
            typed = config.zero.offload_optimizer or config.zero.offload_parameters
            if checkpoints or typed or not optimizer:
                yield _values(stage, optimizer, parameters) | {"model.gradient_checkpointing": checkpoints}


def _open_values(keys: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for key in keys for name in AUTOMATIC[key]}


def _may_be(config: DictConfig, gpus: int, stage: int, optimizer: bool, parameters: bool) -> bool:
    """Return True if a stage may be chosen.

    One GPU gets stage 0, because nothing can be partitioned. Several GPUs get a higher stage, because stage 1 needs
    less memory than stage 0. A stage with the optimizer in host memory may be chosen on any number of GPUs. A quantised
    model never gets stage 3.
    """
    typed = config.zero.offload_optimizer <= optimizer and config.zero.offload_parameters <= parameters
    if stage == 3 and config.model.quantise:
        return False
    shares = optimizer or (stage == 0) == (gpus == 1)
    return typed and shares


def _values(stage: int, optimizer: bool, parameters: bool) -> dict[str, Any]:
    return {"zero.stage": stage, "zero.offload_optimizer": optimizer, "zero.offload_parameters": parameters}


def with_values(config: DictConfig, values: dict[str, Any]) -> DictConfig:
    """Return a copy of `config` with these values."""
    copy = config.copy()
    for key, value in values.items():
        OmegaConf.update(copy, key, value)
    return copy


def advice(shape: Shape, config: DictConfig, gpus: int, limit_gb: float) -> list[str]:
    """Return the changes with which a run fits, the smallest first, as overrides to type."""
    checkpoints = {} if config.model.gradient_checkpointing else {"model.gradient_checkpointing": True}
    changes: list[dict[str, Any]] = [{}, {"zero.hpz": 1}, checkpoints, {"zero.stage": 3, **checkpoints}]
    changes.append({"zero.stage": 3, "zero.offload_optimizer": True, **checkpoints})
    if not config.model.lora.rank:
        changes.append({"model.lora.rank": 16, **checkpoints})
    changes.append({"zero.stage": 3, "zero.offload_optimizer": True, "zero.offload_parameters": True, **checkpoints})
    if config.model.quantise:
        changes = [change for change in changes if "zero.stage" not in change]
    tried: dict[str, dict[str, Any]] = {}
    for change, more in product(changes, _less_for_replies(config)):
        values = {key: value for key, value in {**change, **more}.items() if OmegaConf.select(config, key) != value}
        tried[" ".join(f"{key}={str(value).lower()}" for key, value in values.items())] = values
    return [
        typed for typed, values in tried.items() if values and fits(shape, with_values(config, values), gpus, limit_gb)
    ]


def _less_for_replies(config: DictConfig) -> list[dict[str, Any]]:
    """Return changes to the generation and scoring of replies that save memory."""
    if config.get("rollout") is None:
        return [{}]
    idle: dict[str, Any] = {"rollout.offload_idle": True}
    smaller = {f"rollout.{key}": value for key, value in configs.build(config, "rollout").smaller().items()}
    return [{}, idle, *([smaller, smaller | idle] if smaller else [])]
