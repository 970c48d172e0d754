"""Fingerprints of cells: a finished run directory with a cell's fingerprint is that cell, whatever its name."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.rundir.identity import deciding
from psychocounsel.storage.hashes import content_id

_ELSEWHERE = ("out", "settled")  # the cell's location, which does not matter, and values that are hashed separately
_FOLDER_KEYS = ("path", "eval_path", "model")  # names of data or model folders
_STUDY = "STUDY"  # replaces the path of the study's folder, which may be moved


def cell_fingerprint(module: str, config: DictConfig, study: Path, needed: Iterable[str], times: int = 0) -> str:
    """Return a hash of everything that decides a cell's result: settings, local files, and the cells that it needs.

    `times` counts the forced repetitions of its stage. For a value that a search or an earlier stage will choose, the
    rule of the choice is hashed.
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
    """Return the fingerprint of tables with this layout over cells with these fingerprints."""
    return _hash(["table", layout, sorted(cells)])


def selection_fingerprint(metric: str, mode: str, cells: Sequence[str]) -> str:
    """Return the fingerprint of a choice between cells with these fingerprints."""
    return _hash(["selection", metric, mode, sorted(cells)])


def _contents(values: Mapping[str, Any], study: Path, cache: str) -> dict[str, str]:
    """Return hashes of the local files and folders that keys name, by key; runs of the study have their own fingerprints."""
    found = {}
    for key, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.startswith("/") and not Path(text).is_relative_to(study):
                path = Path(text)
                if os.path.isfile(text):  # also False for a long text
                    found[f"{key}={text}"] = content_id(path.parent, [path], cache)
                elif os.path.isdir(text) and key.rpartition(".")[2] in _FOLDER_KEYS:
                    files = sorted(each for each in path.rglob("*") if each.is_file())
                    found[f"{key}={text}"] = content_id(path, files, cache)
    return found


def _without(value: Any, study: str) -> Any:
    """Return `value` with the study's folder replaced in all texts."""
    if isinstance(value, str):
        return value.replace(study, _STUDY)
    if isinstance(value, list | tuple):
        return [_without(each, study) for each in value]
    if isinstance(value, dict):
        return {_without(key, study): _without(inner, study) for key, inner in value.items()}
    return value


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
