"""What makes two cells the same: a finished run directory with a cell's fingerprint is that cell, whatever its name."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.rundir.identity import deciding
from psychocounsel.storage.hashes import content_id

_ELSEWHERE = ("out", "settled")  # where a cell lies, on which nothing depends, and what is counted by itself
_FOLDER_KEYS = ("path", "eval_path", "model")  # which name folders of data or of a model
_STUDY = "STUDY"  # in the place of the study's folder, which may be moved


def cell_fingerprint(module: str, config: DictConfig, study: Path, needed: Iterable[str], times: int = 0) -> str:
    """The fingerprint of a cell: of all that decides what it will have made, of local files that it names, and of cells it needs.

    `times` is how often its stage was made anew by force. Where a stage chooses a value later, how it is chosen counts.
    """
    recipes = config.get("settled")
    settled: Any = OmegaConf.to_container(recipes) if recipes else {}
    kept = {
        key: value
        for key, value in deciding(config).items()
        if key.split(".")[0] not in _ELSEWHERE and key not in settled
    }
    content = _contents(kept, study, config.paths.cache)
    return _hash(
        [module, _without([kept, settled], str(study)), sorted(needed), times, *([content] if content else [])]
    )


def table_fingerprint(layout: Sequence[Any], cells: Sequence[str]) -> str:
    """The fingerprint of tables of this layout, of the cells that have these fingerprints."""
    return _hash(["table", layout, sorted(cells)])


def selection_fingerprint(metric: str, mode: str, cells: Sequence[str]) -> str:
    """The fingerprint of a choice between cells that have these fingerprints."""
    return _hash(["selection", metric, mode, sorted(cells)])


def _contents(values: Mapping[str, Any], study: Path, cache: str) -> dict[str, str]:
    """What stands in the local files and folders that keys name, by key; runs of the study have fingerprints of their own."""
    found = {}
    for key, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.startswith("/") and not Path(text).is_relative_to(study):
                path = Path(text)
                if os.path.isfile(text):  # False for a long text as well
                    found[f"{key}={text}"] = content_id(path.parent, [path], cache)
                elif os.path.isdir(text) and key.rpartition(".")[2] in _FOLDER_KEYS:
                    files = sorted(each for each in path.rglob("*") if each.is_file())
                    found[f"{key}={text}"] = content_id(path, files, cache)
    return found


def _without(value: Any, study: str) -> Any:
    """`value` with the study's folder replaced in all texts."""
    if isinstance(value, str):
        return value.replace(study, _STUDY)
    if isinstance(value, list | tuple):
        return [_without(each, study) for each in value]
    if isinstance(value, dict):
        return {_without(key, study): _without(inner, study) for key, inner in value.items()}
    return value


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
