"""`model/`: the trained model in Hugging Face format, with its tokenizer and every token that ends a reply."""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.distributed.world import World
from psychocounsel.engine.zero import Engine
from psychocounsel.model.lora import merged_parameters, plain_name
from psychocounsel.model.packed import PackedModel
from psychocounsel.model.tokenizer import resolve_path
from psychocounsel.rundir.paths import ModelDir
from psychocounsel.storage.files import (
    read_json,
    recover_directory,
    replace_directory,
    write_atomically,
    write_json,
)

CARD = "README.md"  # the hub expects this name


@dataclass(frozen=True)
class Companions:
    """The other files of a model folder: tokenizer, card (README.md), and step and metrics of the weights.

    `allowed_hosts`: the hosts that may receive weights trained on confidential data; None for other data.
    """

    tokenizer: Any
    chat: ChatFormat
    model: DictConfig  # the group `model` of the run
    card: str
    about: dict[str, Any]
    allowed_hosts: list[str] | None = None


def export_model(folder: Path, engine: Engine, world: World, companions: Companions) -> None:
    """Write the trained model to `folder` in the dtype it computes in; the old folder is replaced once all is written.

    A LoRA run writes only the adapter, unless `model.lora.merge`. All ranks must call this function. Under ZeRO-3 one
    parameter is gathered at a time, and only rank 0 keeps copies, in host memory.
    """
    wrapper = engine.module
    weights: dict[str, torch.Tensor] = {}
    alone = saves_adapter(wrapper, companions.model)
    for name, value in engine.whole_parameters() if alone else merged_parameters(wrapper.lm):
        if world.rank == 0:
            weights[name] = value.to("cpu", engine.dtype, copy=True)
    if world.rank == 0:
        write_model(folder, wrapper, weights, engine.dtype, companions)
    world.barrier()


def saves_adapter(wrapper: PackedModel, model: DictConfig) -> bool:
    """Return True if only the adapter is written."""
    return wrapper.adapter is not None and not model.lora.merge


def write_model(
    folder: Path,
    wrapper: PackedModel,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype,
    companions: Companions,
) -> None:
    """Write `weights` in `dtype`, with everything needed to load them.

    `weights` has the names of a plain model or of an adapter.
    """
    lm, adapter, model = wrapper.lm, wrapper.adapter, companions.model
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if adapter is not None and saves_adapter(wrapper, model):
        adapter.save(draft, weights, resolve_path(model.path), model.revision)
    else:
        _end_with(lm, companions.tokenizer, companions.chat)
        _save(lm, draft, _with_tied(lm, weights), dtype, wrapper.settings(companions.about))
    companions.tokenizer.save_pretrained(draft)
    write_atomically(draft / CARD, companions.card)
    write_json(ModelDir(draft).about, companions.about)
    record_hosts(draft, companions.allowed_hosts)
    # safetensors makes its files readable for their owner only, unlike the other files.
    for file in draft.glob("*.safetensors"):
        file.chmod((draft / CARD).stat().st_mode)
    replace_directory(draft, folder)


def record_hosts(draft: Path, allowed_hosts: list[str] | None) -> None:
    """Write confidential.json into the draft of a model folder, so that the folder never exists without it.

    Weights that were not trained on confidential data get no such file (`allowed_hosts` is None).
    """
    if allowed_hosts is not None:
        write_json(ModelDir(draft).confidential, {"allowed_hosts": allowed_hosts})


def kept_model(folder: Path) -> dict[str, Any]:
    """Return the step and metrics of the model in `folder`; {} if there is none.

    A folder that a kill left half replaced is repaired first.
    """
    recover_directory(folder)
    return read_json(ModelDir(folder).about) or {}


def _save(lm: Any, folder: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype, more: dict[str, Any]) -> None:
    """Save the model with settings for inference, not for training, and with `more`."""
    lm.save_pretrained(folder, state_dict=weights)
    settings = copy.deepcopy(lm.config)
    settings.update({"use_cache": True, "dtype": dtype, **more})
    settings.save_pretrained(folder)


def _end_with(lm: Any, tokenizer: Any, chat: ChatFormat) -> None:
    """Make generation stop at the model's own end tokens and at those that close a turn in the chat template."""
    if not lm.can_generate():  # a reward model
        return
    own = lm.generation_config.eos_token_id
    known = [] if own is None else [own] if isinstance(own, int) else list(own)
    ends = [*known, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []), *sorted(chat.end_tokens)]
    lm.generation_config.eos_token_id = list(dict.fromkeys(ends))
    lm.generation_config.pad_token_id = tokenizer.pad_token_id


def _with_tied(lm: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add other names of tied parameters (an output layer) and the buffers, because save_pretrained expects them."""
    first_name: dict[int, str] = {}
    for name, parameter in lm.named_parameters(remove_duplicate=False):
        plain = plain_name(name)
        if plain is not None:
            original = first_name.setdefault(id(parameter), plain)
            weights.setdefault(plain, weights[original])
    saved = lm.state_dict().keys()
    for name, buffer in lm.named_buffers():
        if name in saved:
            weights.setdefault(name, buffer.detach().cpu())
    return weights
