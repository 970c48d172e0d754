"""Checks that a model folder holds complete safetensors files, from their headers alone; imports no torch."""

import json
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.storage.files import expanded, read_json, read_mapping

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


def check_model_folder(folder: Path, key: str, weights: bool = True) -> None:
    """Refuse a model folder with a damaged config.json, or with weights that are damaged or not in safetensors format.

    `key` is the configuration key named in errors. `weights=False` checks only the configuration.

    Raises:
        UserError: names the file and what to do.
    """
    for name in ("config.json", "adapter_config.json"):
        read_mapping(folder / name)
    if not weights:
        return
    if not (files := _weight_files(folder)):
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickles:
            raise UserError(
                f"{key}={folder}: its weights are a pickle ({pickles[0]}), which can run code when it is read; if you trust "
                "it, convert it with transformers: from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True)"
            )
        raise UserError(f"{key}={folder}: holds no weights (*.safetensors)")
    for file in files:
        check_safetensors(file)


def refuse_gguf(path: str, key: str) -> None:
    """Refuse a GGUF file, or a folder whose only model is one, as a model; `key` is the configuration key ("" for none).

    Raises:
        UserError: says how to convert it.
    """
    place = expanded(path)
    files = sorted(place.glob("*.gguf")) if place.is_dir() and not holds_config(place) else [place]
    if files and files[0].suffix.lower() == ".gguf" and files[0].is_file():
        raise UserError(
            f"{f'{key}=' if key else ''}{path}: {'is' if files[0] == place else 'holds only'} a GGUF file, which cannot be "
            "used here: give the Hugging Face model that it was made from, or convert it: "
            f"python -m psychocounsel.model.from_gguf {files[0]} NEW_FOLDER (docs/models.md#gguf)"
        )


def is_reward_model(folder: Path) -> bool:
    """Return True if the config.json of a model folder names a model that scores texts instead of writing them."""
    return _architecture(folder).endswith("ForSequenceClassification")


def is_language_model(folder: Path) -> bool:
    """Return True if the config.json of a model folder names a language model, and no head that scores texts."""
    return _architecture(folder).endswith("ForCausalLM")


def no_reward_model(key: str, path: str) -> UserError:
    """Return the error that `key=path` names a language model, where a reward model is needed."""
    return UserError(
        f"{key}={path}: is a language model, not a reward model; `psychocounsel train algo=reward model.path={path} "
        "data.path=YOUR_PAIRS` makes one of it"
    )


def _architecture(folder: Path) -> str:
    config = read_json(folder / "config.json") if folder.is_dir() else None
    if not isinstance(config, dict) or config.get("value_head_prefix"):  # OpenRLHF's name of a head
        return ""
    named = config.get("architectures")  # loading the model names a damaged file
    return str([*named, ""][0]) if isinstance(named, list) else ""


def holds_config(folder: Path) -> bool:
    """Return True if the folder holds the configuration of a model or an adapter."""
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that the folder's index lists, or all safetensors files if there is no index."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        listed = read_mapping(index).get("weight_map")
        if not isinstance(listed, dict):
            raise UserError(f"{index}: lists no weights (weight_map)")
        return [folder / str(name) for name in sorted(set(map(str, listed.values())))]
    return sorted(folder.glob("*.safetensors"))


def check_safetensors(file: Path) -> None:
    """Compare a file's size with the size that its header gives.

    Raises:
        UserError: if the file is missing, cut short, too long, or of another format.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = opened.read(length) if length <= min(size - 8, LONGEST_HEADER) else b""
    except FileNotFoundError as error:
        raise UserError(f"{file}: is missing, although the folder's index lists it") from error
    end = _end_of_data(header)
    if end is None:
        raise UserError(f"{file}: is not a safetensors file, or its header is damaged; copy or download it again")
    if size != 8 + length + end:
        raise UserError(f"{file}: has {size} bytes instead of {8 + length + end}; copy or download it again")


def check_model_file(file: Path) -> None:
    """Refuse a file of a model folder whose content is not what its name says: safetensors, JSON, a sentencepiece model or text.

    Raises:
        UserError: naming the file, also if it is a link.
    """
    if file.is_symlink() or not file.is_file():
        raise UserError(f"{file}: is a link or a folder; put the file itself there")
    if file.suffix == ".safetensors":
        check_safetensors(file)
    elif file.suffix == ".json":
        read_mapping(file)
    else:
        content = file.read_bytes()
        is_sentencepiece = file.suffix == ".model" and content.startswith(b"\n")  # the tag of its first field
        try:
            is_sentencepiece or content.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: is not UTF-8 text; copy or download it again") from error


def _end_of_data(header: bytes) -> int | None:
    """Return the number of data bytes that the header describes, or None if the header is inconsistent."""
    try:
        content: Any = json.loads(header)
        spans = sorted(entry["data_offsets"] for name, entry in content.items() if name != "__metadata__")
        end = 0
        for start, stop in spans:
            if start != end or stop < start:
                return None
            end = stop
        return end
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
