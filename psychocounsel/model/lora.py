"""Low-rank adapters (arXiv 2106.09685) by peft: added, switched off, saved and merged."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from psychocounsel.errors import UserError

_NAME = "default"  # peft's name for the only adapter


class Adapter:
    """The adapter of a model. It is not a module, so that the model's parameters are listed once."""

    def __init__(self, peft_model: Any) -> None:
        self._peft = peft_model

    def off(self) -> AbstractContextManager[Any]:
        """Return a context in which the model computes without its adapter."""
        return self._peft.disable_adapter()

    def save(self, folder: Path, weights: dict[str, torch.Tensor], base: str, revision: str | None) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` from the whole trained `weights` of the model."""
        settings = self._peft.peft_config[_NAME]
        settings.base_model_name_or_path, settings.revision = base, revision
        named = {f"base_model.model.{name}": value for name, value in weights.items()}
        self._peft.save_pretrained(folder, state_dict=named)


def add_adapter(lm: Any, lora: DictConfig, head: str | None) -> tuple[Any, Adapter]:
    """Freeze `lm` and add low-rank layers to it, in place; return the model and its adapter.

    `head` is the name of a module that is trained whole.

    Raises:
        UserError: if the model lacks a target layer, or a target is the output layer, an embedding, or a layer that
            shares its weight with one.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets: Any = OmegaConf.to_container(lora.targets) if OmegaConf.is_config(lora.targets) else lora.targets
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=[head] if head else None,
        task_type=TaskType.SEQ_CLS if head else TaskType.CAUSAL_LM,
    )
    try:
        peft_model = get_peft_model(lm, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise UserError(f"model.lora.targets={lora.targets}: {str(error).splitlines()[0]}") from error
    _check_layers(lm, targets)
    return peft_model.get_base_model(), Adapter(peft_model)


def _check_layers(lm: Any, targets: Any) -> None:
    """Raise unless each target exists and has a matrix of its own, because shared weights could not be merged."""
    from peft.tuners.lora import LoraLayer

    adapted: dict[str, Any] = {name: part for name, part in lm.named_modules() if isinstance(part, LoraLayer)}
    for target in targets if isinstance(targets, list) else []:
        if not any(name == target or name.endswith(f".{target}") for name in adapted):
            raise UserError(f"model.lora.targets: no layer of the model is called {target}")
    embeddings = lm.get_input_embeddings()
    shared = getattr(embeddings, "weight", None)
    for name, layer in adapted.items():
        base = layer.get_base_layer()
        if layer is embeddings or isinstance(base, nn.Embedding) or base.weight is shared:
            raise UserError(f"model.lora.targets: {name} is an embedding, or shares its weight with one; leave it out")
        if layer is lm.get_output_embeddings():
            raise UserError(
                f"model.lora.targets: {name} is the output layer, for which adapters are not supported; leave it out"
            )


def plain_name(name: str) -> str | None:
    """Return a parameter's name in the model without adapter; None for parameters of the adapter itself."""
    if ".lora_" in name or ".original_module." in name:
        return None
    return name.replace(".base_layer.", ".").replace(f".modules_to_save.{_NAME}.", ".")


def adapter_weights(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and full value of each low-rank matrix of an adapted model, on CPU.

    Matrices are gathered one at a time; under ZeRO-3 all ranks must iterate together.
    """
    import deepspeed

    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                yield name, parameter.detach().to("cpu", copy=True)


def merged_parameters(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and full value of each parameter after merging the adapter, float32, named as in the plain model.

    Layers are gathered one at a time; under ZeRO-3 all ranks must iterate together.
    """
    import deepspeed  # but not peft, whose import takes a second, because most models have no adapter

    layers = {f"{name}.base_layer.weight": part for name, part in module.named_modules() if hasattr(part, "lora_A")}
    for name, parameter in module.named_parameters():
        plain = plain_name(name)
        if plain is None:
            continue
        layer: Any = layers.get(name)
        needed = [parameter, *(layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight)] if layer else [parameter]
        with deepspeed.zero.GatheredParameters(needed, enabled=hasattr(parameter, "ds_id")):
            value = parameter.detach().float()
            if layer:
                value = value + layer.get_delta_weight(_NAME).detach().float()
            yield plain, value
