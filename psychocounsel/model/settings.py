"""The group `model`: its keys and their checks. Imports no torch."""

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.model.shape import number_of_weights
from psychocounsel.remote.hub_sources import HubSource, is_here
from psychocounsel.rundir.paths import run_of_model
from psychocounsel.settings.paths import (
    check_local_path,
    is_made_before,
    make_absolute,
    model_at,
    name_by_path,
)
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import is_on_hub
from psychocounsel.storage.files import expanded


@dataclass
class LoraConfig:
    rank: int | None = option(None, at_least=1)  # null: all weights are trained
    alpha: float = option(32.0, above=0)
    dropout: float = option(0.0, at_least=0, below=1)
    targets: Any = "all-linear"
    merge: bool = False


@dataclass
class ModelConfig:
    name: str = MISSING
    path: str = MISSING  # hub id, local folder, or builtin:tiny
    revision: str | None = None
    license: str | None = None
    dtype: str = option("auto", choices=("auto", "fp32", "bf16"))
    gradient_checkpointing: Any = option(False, choices=(False, True, "auto"))
    chat_template: str | None = None
    template_args: dict[str, Any] = option({})
    system_prompt: str | None = "auto"
    attention: str = option("auto", choices=("auto", "dense", "varlen", "flex"))
    kernels: str = option("auto", choices=("auto", "plain", "liger"))
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantise: str | None = option(None, choices=("nf4",))


def check_model(config: DictConfig, has_gpus: bool) -> None:
    """Raise UserError for settings of the trained model that cannot work, naming the key and what to type instead."""
    if config.model.attention == "flex" and not has_gpus:
        raise UserError("model.attention=flex: FlexAttention has no backward pass without a GPU; use varlen or dense")
    if config.model.kernels == "liger":
        _check_liger(has_gpus)
    _check_adapter(config)
    check_model_paths(config, "model", config.model)


def _check_liger(has_gpus: bool) -> None:
    if not has_gpus:
        raise UserError("model.kernels=liger: Liger's kernels need a GPU, and this machine has none; use plain")
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError(
            "model.kernels=liger: the package liger-kernel is missing: pip install 'psychocounsel[liger]', or use "
            "model.kernels=plain"
        )


def _check_adapter(config: DictConfig) -> None:
    lora, quantise = config.model.lora, config.model.quantise
    targets = lora.targets
    if not isinstance(targets, str) and not (
        OmegaConf.is_list(targets) and targets and all(isinstance(name, str) for name in targets)
    ):
        raise UserError(f"model.lora.targets={targets}: give all-linear, or a list of layer names as [q_proj,v_proj]")
    if lora.merge and not lora.rank:
        raise UserError(
            "model.lora.merge=true merges an adapter, but no adapter is trained: give model.lora.rank as well"
        )
    if not quantise:
        return
    if not lora.rank:
        raise UserError(f"model.quantise={quantise}: quantised weights cannot be trained; give model.lora.rank as well")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantise={quantise} needs bitsandbytes: pip install 'psychocounsel[qlora]'")
    if config.zero.stage == 3 or config.zero.offload_parameters:
        sharding = "zero=3" if config.zero.stage == 3 else "zero.offload_parameters=true, which needs zero=3"
        raise UserError(
            f"model.quantise={quantise} and {sharding}: quantised weights are not partitioned; use zero=0, 1 or 2"
        )
    if lora.merge:
        raise UserError(
            f"model.lora.merge=true would merge into weights rounded by model.quantise={quantise}: leave it out, and merge "
            "into the full weights afterwards with `psychocounsel export RUN merge=true`"
        )


def check_model_paths(config: DictConfig, group: str, section: DictConfig) -> None:
    """Check the path of the model at key `group`; that of a run becomes that of its model.

    Only a reward model may be an adapter, because it is not trained.

    Raises:
        UserError: if the path or its chat template does not exist, or is no model that can be used here.
    """
    if section.path and is_made_before(config, section.path):
        return
    if section.path:
        section.path = model_at(section.path, f"{group}.path", section.get("revision"))
    if group == "model" and (expanded(section.path) / "adapter_config.json").is_file():
        run = run_of_model(Path(section.path)) or section.path
        raise UserError(
            f"model.path={section.path}: is a LoRA adapter; train the merged model instead, which "
            f"`psychocounsel export {quote(str(run))} merge=true` writes"
        )
    if section.chat_template:
        check_local_path(section.chat_template, f"{group}.chat_template", must_exist=True)


# Defaults by the size of the trained model, as ${by_size:TINY,SMALL,LARGE} in conf/

_TINY, _SMALL = 30e6, 2e9  # weights below which a model is tiny, or small
_ADAPTERS = 10.0  # adapters learn best at about ten times the rate of all weights, at any rank, with alpha 32


def _by_size(tiny: Any, small: Any, large: Any, *, _root_: DictConfig) -> Any:
    weights = None
    with contextlib.suppress(UserError, OSError, ValueError):  # the check of the path reports it more clearly
        weights = number_of_weights(_root_, str(_root_.model.path))
    return large if weights is None or weights >= _SMALL else small if weights >= _TINY else tiny


def _rate_by_size(tiny: float, small: float, large: float, *, _root_: DictConfig) -> float:
    """Return the learning rate of the model's size; adapters get ten times as much (Schulman 2025, "LoRA Without Regret")."""
    rate = float(_by_size(tiny, small, large, _root_=_root_))
    return rate * _ADAPTERS if _root_.model.lora.rank else rate


OmegaConf.register_new_resolver("by_size", _by_size, replace=True)
OmegaConf.register_new_resolver("rate_by_size", _rate_by_size, replace=True)


def settle_model(config: DictConfig) -> None:
    """Make the paths of `model` and of a teacher absolute, and name a model of the user after its path."""
    make_absolute(config, config.model, ("path", "chat_template"))
    name_by_path(config.model, ("local", "tiny"))
    if (teacher := teacher_of(config)) is not None:
        make_absolute(config, teacher, ("path",))


def teacher_of(config: DictConfig) -> DictConfig | None:
    """Return the section of the model that an algorithm learns from (`Algorithm.reference_kind` "model"), if it has one."""
    return config.algo.get("teacher") if config.get("algo") is not None else None


def saves_adapter(model: DictConfig) -> bool:
    """Return True if a run writes only its adapter, not a whole model."""
    return bool(model.lora.rank) and not model.lora.merge


def idle_model(model: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of `model` that its other keys disable, each with the reason."""
    if not is_on_hub(model.path):
        yield "model.revision", "model.path is not a repository of the hub"
    if not model.lora.rank:
        for name in ("alpha", "dropout", "targets"):
            yield f"model.lora.{name}", "without model.lora.rank no adapter is trained"


def model_repositories(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    """Yield the hub repositories of the trained model and a teacher, with the keys of their revisions, unless they are here."""
    if not is_here(config.model.path):
        yield HubSource("model", config.model.path, config.model.revision, "model.path"), "model.revision"
    if (teacher := teacher_of(config)) is not None and not is_here(teacher.path):
        yield HubSource("model", teacher.path, teacher.revision, "algo.teacher.path"), "algo.teacher.revision"
