"""The folder of a trained model: weights, tokenizer and model card."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError

from psychocounsel.data.licences import identifier, strictest
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.distributed.world import World
from psychocounsel.engine.zero import Engine
from psychocounsel.model.lora import merged_parameters, plain_name
from psychocounsel.model.packed import PackedModel
from psychocounsel.model.settings import saves_adapter
from psychocounsel.model.tokenizer import resolve_path
from psychocounsel.rundir.paths import ModelDir
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import (
    fsync_files,
    read_mapping,
    recover_directory,
    write_atomically,
    write_json,
)

# `model/`: the trained model in Hugging Face format, with its tokenizer and every token that ends a reply.

CARD = "README.md"  # the hub expects this name


@dataclass(frozen=True)
class Companions:
    """The other files of a model folder: tokenizer, card (README.md), and step, system prompt and metrics of the weights.

    `allowed_hosts`: the hosts that may receive weights trained on confidential data; None for other data.
    """

    chat: ChatFormat
    model: DictConfig  # the group `model` of the run
    card: str
    about: dict[str, Any]
    allowed_hosts: list[str] | None = None


def taken_model(engine: Engine, world: World, companions: Companions) -> tuple[Callable[[Path], None] | None, int]:
    """Return rank 0's function that writes the trained model to a folder, and the bytes of its weights.

    The function may run in a thread: the weights are copies in host memory, in the dtype that they compute in. A LoRA run
    writes only the adapter, unless `model.lora.merge`. All ranks must call this function. Under ZeRO-3 one parameter is
    gathered at a time, and only rank 0 keeps copies.
    """
    wrapper = engine.module
    weights: dict[str, torch.Tensor] = {}
    size = 0
    for name, value in engine.whole_parameters() if saves_adapter(companions.model) else merged_parameters(wrapper.lm):
        size += value.numel() * engine.dtype.itemsize
        if world.rank == 0:
            weights[name] = value.to("cpu", engine.dtype, copy=True)
    if world.rank:
        return None, size
    return partial(fill_folder, wrapper=wrapper, weights=weights, dtype=engine.dtype, companions=companions), size


def draft_of(folder: Path) -> Path:
    """Return the folder in which a model is written before it replaces `folder`."""
    return folder.with_name(f".{folder.name}.tmp")


def fill_folder(
    draft: Path,
    wrapper: PackedModel,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype,
    companions: Companions,
) -> None:
    """Write `weights` in `dtype` to a new folder, with everything needed to load them, durably.

    `weights` has the names of a plain model or of an adapter.

    Raises:
        OSError: if the disk is full or cannot be written.
    """
    lm, adapter, model = wrapper.lm, wrapper.adapter, companions.model
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if adapter is not None and saves_adapter(model):
        adapter.save(draft, weights, resolve_path(model.path), model.revision)
    else:
        _end_with(lm, companions.chat)
        try:
            _save(lm, draft, _with_tied(lm, weights), dtype, wrapper.settings(companions.about))
        except SafetensorError as error:
            raise OSError(str(error)) from error
    companions.chat.tokenizer.save_pretrained(draft)
    write_atomically(draft / CARD, companions.card)
    write_json(ModelDir(draft).about, companions.about)
    record_hosts(draft, companions.allowed_hosts)
    # safetensors makes its files readable for their owner only, unlike the other files.
    for file in draft.glob("*.safetensors"):
        file.chmod((draft / CARD).stat().st_mode)
    fsync_files(draft)


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
    about = read_mapping(ModelDir(folder).about)
    return {name: value for name, value in about.items() if name != "system_prompt"}


def _save(lm: Any, folder: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype, more: dict[str, Any]) -> None:
    """Save the model with settings for inference, not for training, and with `more`."""
    lm.save_pretrained(folder, state_dict=weights)
    settings = copy.deepcopy(lm.config)
    settings.update({"use_cache": True, "dtype": dtype, **more})
    settings.save_pretrained(folder)


def _end_with(lm: Any, chat: ChatFormat) -> None:
    """Make generation stop at the model's own end tokens and at those that close a turn in the chat template."""
    if not lm.can_generate():  # a reward model
        return
    own, tokenizer = lm.generation_config.eos_token_id, chat.tokenizer
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


# The model card: origin, licences and evaluation


def model_card(config: DictConfig, about: dict[str, Any]) -> str:
    """Return the text of `model/README.md`; `about`: step, system prompt and held-out figures of the weights."""
    algorithm = config.algo._target_.rsplit(".", 1)[-1]
    licences = [("base model", model_licence(config.model)), *_data_licences(config.data)]
    front = _front_matter(config, algorithm, [licence for _, licence in licences])
    figures = [f"| {name} | {value:.4f} |" for name, value in about.items() if name.startswith("eval/")]
    table = ["| held-out metric | value |", "|---|---|", *figures] if figures else ["These weights were not evaluated."]
    training = f"`{algorithm}` from `{_public(config.model.path)}` (revision {config.model.revision or 'not pinned'})"
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {algorithm} of {config.model.name}",
            "",
            f"Trained with psychocounsel: step {about['step']} of {training} on {', '.join(map(_public, _sources(config)))}. "
            "Not for clinical use.",
            "",
            *_prompt_lines(about.get("system_prompt")),
            "## Licence",
            "",
            *(f"- {what}: {licence or 'unknown, ask its authors'}" for what, licence in dict.fromkeys(licences)),
            "",
            "All these licences apply.",
            "",
            "## Evaluation",
            "",
            *table,
            "",
            "## Configuration",
            "",
            "```yaml",
            OmegaConf.to_yaml(_shown(config)).rstrip(),
            "```",
            "",
        ]
    )


def _prompt_lines(prompt: str | None) -> list[str]:
    """Return the card's line about the system prompt, quoted in one line, so that it cannot add lines of its own."""
    return (
        [f"Each conversation began with the system message {json.dumps(prompt, ensure_ascii=False)}.", ""]
        if prompt
        else []
    )


def model_licence(model: DictConfig) -> str | None:
    """Return the licence in the config, or otherwise the one in the model's own card (in its folder or the hub's cache)."""
    if model.license:
        return identifier(model.license)
    path = Path(resolve_path(model.path))
    card: Path | str | None = path / "README.md"
    if not path.is_dir() and not path.is_absolute():
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(model.path, "README.md", revision=model.revision)
        card = file if isinstance(file, str) else None
    return _licence_of(Path(card)) if card and Path(card).is_file() else None


def _licence_of(card: Path) -> str | None:
    """Return the licence in a card's front matter; for the licence "other", its name. None if there is none."""
    before, _, rest = card.read_text(encoding="utf-8-sig", errors="replace").partition("---\n")
    if before.strip():
        return None
    try:
        front = yaml.safe_load(rest.partition("\n---")[0])
    except (yaml.YAMLError, ValueError):  # ValueError: an impossible date
        return None
    if not isinstance(front, dict):
        return None
    licence = front.get("license")
    return identifier(front.get("license_name") if licence == "other" else licence)


def _data_licences(data: DictConfig) -> list[tuple[str, str | None]]:
    if not data.mix:
        return [(f"data {data.name}", identifier(data.license))]
    return [(f"data {entry.name or _public(entry.path)}", identifier(entry.license)) for entry in data.mix]


def _sources(config: DictConfig) -> list[str]:
    return [entry.path for entry in config.data.mix] or [config.data.path or config.data.name]


def _public(path: str) -> str:
    """Return hub ids unchanged, and only the last part of a local path, because folders of a machine mean nothing to others."""
    return Path(path).name if path.startswith(("/", ".", "~")) else path


def _front_matter(config: DictConfig, algorithm: str, licences: list[str | None]) -> dict[str, Any]:
    licence = strictest(licences)
    front: dict[str, Any] = {"license": licence}
    if licence == "other":
        front["license_name"] = "-and-".join(sorted({name or "unknown" for name in licences}))
    front["library_name"] = "peft" if saves_adapter(config.model) else "transformers"
    scores = configs.target_class(config, "algo").needs.main == "reward_model"
    front["pipeline_tag"] = "text-classification" if scores else "text-generation"
    hub_ids = [path for path in dict.fromkeys(_sources(config)) if path == _public(path) and "/" in path]
    if config.model.path == _public(config.model.path) and ":" not in config.model.path:
        front["base_model"] = config.model.path
    if hub_ids:
        front["datasets"] = hub_ids
    front["tags"] = ["psychocounsel", algorithm.lower()]
    return front


def _shown(config: DictConfig) -> DictConfig:
    """Return the settings that determined the model, without those of the machine and its folders."""
    keys = ("seed", "epochs", "max_steps", "global_batch_size", "max_length", "max_prompt_length")
    algo = {name: _public(value) if isinstance(value, str) else value for name, value in config.algo.items()}
    return OmegaConf.create({**{key: config[key] for key in keys}, "algo": algo, "lora": config.model.lora})
