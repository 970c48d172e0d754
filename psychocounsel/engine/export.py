"""`model/`: the trained model in Hugging Face format, with its tokenizer and every token that ends a reply."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.engine.distributed import World
from psychocounsel.engine.zero import Engine
from psychocounsel.files import read_json, recover_directory, replace_directory, write_atomically, write_json


def export_model(
    folder: Path,
    engine: Engine,
    tokenizer: Any,
    chat: ChatFormat,
    world: World,
    card: str,
    about: dict[str, Any],
) -> None:
    """Write the policy to `folder` in the dtype it computes in, replacing what is there once all is written.

    `card` becomes its README.md, `about` (step and metrics) its psychocounsel.json. All ranks must call it.

    Under ZeRO-3 one parameter is gathered at a time, and only rank 0 keeps copies, in host memory.
    """
    lm = engine.module.lm
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in engine.whole_parameters():
        if world.rank == 0:
            weights[name.removeprefix("lm.")] = parameter.to("cpu", engine.dtype, copy=True)
    if world.rank == 0:
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _end_with(lm, tokenizer, chat)
        _save(lm, draft, _with_tied(lm, weights), engine.dtype)
        tokenizer.save_pretrained(draft)
        write_atomically(draft / "README.md", card)
        write_json(draft / "psychocounsel.json", about)
        replace_directory(draft, folder)
    world.barrier()


def kept_model(folder: Path) -> dict[str, Any]:
    """Step and metrics of the model in `folder`, after putting back one that a kill left half replaced; {} if none."""
    recover_directory(folder)
    return read_json(folder / "psychocounsel.json") or {}


def _save(lm: Any, folder: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Save with the settings of a model in use, not of one in training."""
    lm.save_pretrained(folder, state_dict=weights)
    settings = copy.deepcopy(lm.config)
    settings.use_cache, settings.dtype = True, dtype
    settings.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):  # written for their owner alone, unlike the other files
        file.chmod((folder / "config.json").stat().st_mode)


def _end_with(lm: Any, tokenizer: Any, chat: ChatFormat) -> None:
    """Let generation stop at the model's own end tokens and at those that the chat template closes a turn with."""
    own = lm.generation_config.eos_token_id
    known = [] if own is None else [own] if isinstance(own, int) else list(own)
    ends = [*known, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []), *sorted(chat.end_tokens)]
    lm.generation_config.eos_token_id = list(dict.fromkeys(ends))
    lm.generation_config.pad_token_id = tokenizer.pad_token_id


def _with_tied(lm: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add the names that share a parameter with another (a tied output layer), as save_pretrained expects them."""
    first_name: dict[int, str] = {}
    for name, parameter in lm.named_parameters(remove_duplicate=False):
        original = first_name.setdefault(id(parameter), name)
        if name not in weights:
            weights[name] = weights[original]
    for name, buffer in lm.state_dict().items():
        if name not in weights:
            weights[name] = buffer.detach().cpu()
    return weights
