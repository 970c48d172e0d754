"""Repositories of the Hugging Face hub that a configuration names, and the commits that it is pinned to."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from psychocounsel.settings.reward_sections import path_is, ranker_models, reward_sections
from psychocounsel.settings.sections.annotation_groups import model_sections
from psychocounsel.storage.files import read_json, write_json

_SLOTS = (  # kind, key of the path, key of the revision
    ("model", "model.path", "model.revision"),
    ("dataset", "data.path", "data.revision"),
    ("dataset", "data.eval_path", "data.eval_revision"),
)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSource:
    """Hub repository named by a configuration; `revision` None means the newest commit."""

    kind: str  # model or dataset
    id: str
    revision: str | None
    key: str = field(compare=False)  # key in the configuration, for messages
    weights: bool = True  # False: a server runs the model, so only its tokenizer and configuration are needed


def sources(configs: Iterable[DictConfig]) -> list[HubSource]:
    """Return the distinct repositories that `configs` name, in order."""
    found = [[*(source for source, _ in named(config)), *_of_annotation(config)] for config in configs]
    return list(dict.fromkeys(source for each in found for source in each))


def _of_annotation(config: DictConfig) -> Iterator[HubSource]:
    """Yield the repositories of speeches, judges' reward models, and models run in the process (with a `revision`)."""
    asked = [(key, section) for key, _, section in model_sections(config)]
    for key, section in (*asked, *ranker_models(config)):
        if "revision" in section and section.get("model") and not _is_here(section.model):
            yield HubSource("model", section.model, section.revision, f"{key}.model")
        reward = section.get("reward")  # a judge's reward model
        if OmegaConf.is_dict(reward) and reward.get("path") and not _is_here(reward.path):
            loaded = path_is(reward) == "loaded"
            yield HubSource("model", reward.path, reward.get("revision"), f"{key}.reward.path", weights=loaded)
    if "speeches" in config:
        parts = [(f"speeches.sources[{index}]", part) for index, part in enumerate(config.speeches.sources)]
        for key, part in parts or [("speeches", config.speeches)]:
            if part.path and not _is_here(part.path):
                yield HubSource("dataset", part.path, part.get("revision"), f"{key}.path")


def _is_here(path: str) -> bool:
    """Return True if `path` ships with the package or is a local file or folder."""
    return path.startswith(("builtin:", "/")) or Path(path).exists()


def named(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    """Yield each hub repository of a checked configuration with the key of its revision; shipped and local files are skipped."""
    if "data" not in config:
        return
    mix = [
        ("dataset", f"data.mix[{index}].path", f"data.mix[{index}].revision") for index in range(len(config.data.mix))
    ]
    rewards = [("model", f"{key}.path", f"{key}.revision") for key, _ in reward_sections(config)]
    served = {f"{key}.path" for key, section in reward_sections(config) if path_is(section) == "served"}
    others = [f"audit.against[{index}]" for index in range(len(OmegaConf.select(config, "audit.against") or []))]
    against = [("dataset", f"{key}.path", f"{key}.revision") for key in others]
    for kind, key, revision in (*_SLOTS, *rewards, *mix, *against):
        path = OmegaConf.select(config, key)
        if not path or _is_here(path) or (mix and key == "data.path"):
            continue
        yield HubSource(kind, path, OmegaConf.select(config, revision), key, weights=key not in served), revision


def keep_revisions(config: DictConfig, existing: DictConfig) -> None:
    """Keep the commits that a run started with, unless `config` names a commit or another repository."""
    for source, revision in named(config):
        if source.revision is None and OmegaConf.select(existing, source.key) == source.id:
            OmegaConf.update(config, revision, OmegaConf.select(existing, revision))


def pin(config: DictConfig) -> None:
    """Pin the commits that `prepare` fetched, unless `config` names a commit."""
    for source, revision in named(config):
        record = read_json(_prepared(config.paths.cache, source))
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
