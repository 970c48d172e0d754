"""Repositories of the Hugging Face hub, and the commits that a configuration is pinned to."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from psychocounsel.storage.files import read_json, write_json

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSource:
    """Hub repository named by a configuration; `revision` None means the newest commit."""

    kind: str  # model or dataset
    id: str
    revision: str | None
    key: str = field(compare=False)  # key in the configuration, for messages
    weights: bool = True  # False: a server runs the model, so only its tokenizer and configuration are needed


Repositories = Iterable[tuple[HubSource, str]]  # each with the key of its revision; "" if runs do not keep their commit


def is_here(path: str) -> bool:
    """Return True if `path` ships with the package or is a local file or folder."""
    return path.startswith(("builtin:", "/")) or Path(path).exists()


def keep_revisions(config: DictConfig, existing: DictConfig, repositories: Repositories) -> None:
    """Keep the commits that a run started with, unless `config` names a commit or another repository."""
    for source, revision in repositories:
        if revision and source.revision is None and OmegaConf.select(existing, source.key) == source.id:
            OmegaConf.update(config, revision, OmegaConf.select(existing, revision))


def pin(config: DictConfig, repositories: Repositories) -> None:
    """Pin the commits that `prepare` fetched, unless `config` names a commit."""
    for source, revision in repositories:
        record = read_json(_prepared(config.paths.cache, source)) if revision else None
        if source.revision is None and record:
            OmegaConf.update(config, revision, record["commit"])


def record(cache: str, source: HubSource, commit: str) -> None:
    """Store this commit for new runs, in one file per repository, so that two commands at once do not overwrite each other."""
    path = _prepared(cache, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"kind": source.kind, "id": source.id, "commit": commit})


def _prepared(cache: str, source: HubSource) -> Path:
    return Path(cache) / "prepared" / f"{folder_name(source)}.json"


def folder_name(source: HubSource) -> str:
    return f"{source.kind}s--{source.id.replace('/', '--')}"  # huggingface_hub's naming
