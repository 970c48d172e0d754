"""The files of a model's weights, looked at without loading them: are they safetensors, and whole? Imports no torch."""

import json
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.storage.files import read_mapping

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LONGEST_HEADER = 100_000_000  # bytes; the library's own limit


def check_model_folder(folder: Path, key: str, weights: bool = True) -> None:
    """Refuse a model's folder with a damaged config.json, or weights that are none of ours to load.

    `key` is what errors name. Without `weights` only the configuration is looked at.

    Raises:
        UserError: naming the file and what to do.
    """
    for name in ("config.json", "adapter_config.json"):
        read_mapping(folder / name)
    if not weights:
        return
    if not (files := _weight_files(folder)):
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickles:
            raise UserError(
                f"{key}={folder}: its weights are a pickle ({pickles[0]}), which can run code when it is read; where you trust "
                "it, convert it by transformers: from_pretrained(FOLDER).save_pretrained(NEW, safe_serialization=True)"
            )
        raise UserError(f"{key}={folder}: holds no weights (*.safetensors)")
    for file in files:
        check_safetensors(file)


def _weight_files(folder: Path) -> list[Path]:
    """What the folder's index lists, or else all that are there."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        listed = read_mapping(index).get("weight_map")
        if not isinstance(listed, dict):
            raise UserError(f"{index}: lists no weights (weight_map)")
        return [folder / str(name) for name in sorted(set(map(str, listed.values())))]
    return sorted(folder.glob("*.safetensors"))


def check_safetensors(file: Path) -> None:
    """Hold a file's header against its size.

    Raises:
        UserError: if it is missing, cut short, longer than its header says, or of another kind.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = opened.read(length) if length <= min(size - 8, _LONGEST_HEADER) else b""
    except FileNotFoundError as error:
        raise UserError(f"{file}: is missing, and the folder's index lists it") from error
    end = _end_of_data(header)
    if end is None:
        raise UserError(f"{file}: is no safetensors file, or its header is damaged; copy or download it again")
    if size != 8 + length + end:
        raise UserError(f"{file}: has {size} bytes in the place of {8 + length + end}; copy or download it again")


def _end_of_data(header: bytes) -> int | None:
    """How many bytes of data the header describes; None where it does not make sense."""
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
