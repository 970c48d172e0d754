"""Which settings fit: the stage that `zero=auto` stands for, and what to type where a run is too large."""

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.cluster.memory.gpu_memory import estimate
from psychocounsel.errors import UserError
from psychocounsel.model.shape import Shape
from psychocounsel.settings import config as configs

_GB = 1e9
# The stages that `auto` tries, with the one first that communicates least: stage, optimizer and parameters in host memory.
_LADDER = (
    (0, False, False),
    (1, False, False),
    (2, False, False),
    (3, False, False),
    (2, True, False),
    (3, True, True),
)


def on_gpus_of(config: DictConfig, limit_gb: float) -> DictConfig:
    """A copy of `config` for GPUs of this size, on which engines of vLLM take their share."""
    copy = config.copy()
    with open_dict(copy.cluster):
        copy.cluster.gpu_memory_gb = limit_gb
    return copy


def fits(shape: Shape, config: DictConfig, gpus: int, limit_gb: float) -> bool:
    """Whether a run fits GPUs of `limit_gb` (1e9 bytes), by the estimate."""
    return estimate(shape, on_gpus_of(config, limit_gb), gpus).total <= limit_gb * _GB


def choose_zero(shape: Shape | None, config: DictConfig, gpus: int, limit_gb: float) -> dict[str, Any]:
    """The values that `zero=auto` stands for on `gpus` GPUs of `limit_gb`: the first on the ladder that fit, or the last.

    Without GPUs that is stage 0. Typed offloading stays: then only stages with it are tried.

    Raises:
        UserError: if the model's size is not known.
    """
    if not gpus:
        return _values(0, False, False)
    if shape is None:
        raise UserError(f"zero=auto: the size of model.path={config.model.path} is not known; type zero=0, 1, 2 or 3")
    ladder = [_values(*each) for each in _LADDER if _is_open(config, gpus, *each)]
    return next((values for values in ladder if fits(shape, with_values(config, values), gpus, limit_gb)), ladder[-1])


def _is_open(config: DictConfig, gpus: int, stage: int, optimizer: bool, parameters: bool) -> bool:
    """Whether a stage may be chosen: one GPU has nothing to share out, several need less at stage 1 than at 0."""
    typed = config.zero.offload_optimizer <= optimizer and config.zero.offload_parameters <= parameters
    if stage == 3 and config.model.quantise:
        return False
    shares = optimizer or (stage == 0) == (gpus == 1)
    return typed and shares


def _values(stage: int, optimizer: bool, parameters: bool) -> dict[str, Any]:
    return {"zero.stage": stage, "zero.offload_optimizer": optimizer, "zero.offload_parameters": parameters}


def with_values(config: DictConfig, values: dict[str, Any]) -> DictConfig:
    """A copy of `config` in which keys have these values."""
    copy = config.copy()
    for key, value in values.items():
        OmegaConf.update(copy, key, value)
    return copy


def advice(shape: Shape, config: DictConfig, gpus: int, limit_gb: float) -> list[str]:
    """The smallest changes with which a run fits, as overrides to type."""
    checkpoints = {} if config.model.gradient_checkpointing else {"model.gradient_checkpointing": True}
    changes: list[dict[str, Any]] = [{}, checkpoints, {"zero.stage": 3, **checkpoints}]
    changes.append({"zero.stage": 3, "zero.offload_optimizer": True, **checkpoints})
    if not config.model.lora.rank:
        changes.append({"model.lora.rank": 16, **checkpoints})
    changes.append({"zero.stage": 3, "zero.offload_optimizer": True, "zero.offload_parameters": True, **checkpoints})
    if config.model.quantise:
        changes = [change for change in changes if "zero.stage" not in change]
    fitting = []
    for change in changes:
        for more in _less_for_replies(config):
            values = {key: value for key, value in {**change, **more}.items() if OmegaConf.select(config, key) != value}
            if values and fits(shape, with_values(config, values), gpus, limit_gb):
                fitting.append(" ".join(f"{key}={str(value).lower()}" for key, value in values.items()))
    return list(dict.fromkeys(fitting))


def _less_for_replies(config: DictConfig) -> list[dict[str, Any]]:
    """What may be changed of how replies are written and scored, beside other changes."""
    if "rollout" not in config:
        return [{}]
    idle: dict[str, Any] = {"rollout.offload_idle": True}
    smaller = {f"rollout.{key}": value for key, value in configs.build(config, "rollout").smaller().items()}
    return [{}, idle, *([smaller, smaller | idle] if smaller else [])]
