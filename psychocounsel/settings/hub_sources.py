"""Which repositories of the Hugging Face hub a configuration names, and which commits it is pinned to."""

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
    """A repository of the hub as a configuration names it; `revision` None is the newest commit."""

    kind: str  # model or dataset
    id: str
    revision: str | None
    key: str = field(compare=False)  # of the configuration, for messages
    weights: bool = True  # False: a model that a server runs, of which its tokenizer and configuration are needed


def sources(configs: Iterable[DictConfig]) -> list[HubSource]:
    """The distinct repositories that `configs` name, in order."""
    found = [[*(source for source, _ in named(config)), *_of_annotation(config)] for config in configs]
    return list(dict.fromkeys(source for each in found for source in each))


def _of_annotation(config: DictConfig) -> Iterator[HubSource]:
    """What an annotation loads: models in its process, which alone have a `revision`, and speeches. It is not pinned."""
    asked = [(key, section) for key, _, section in model_sections(config)]
    for key, section in (*asked, *ranker_models(config)):
        if "revision" in section and section.get("model") and not _is_here(section.model):
            yield HubSource("model", section.model, section.revision, f"{key}.model")
        reward = section.get("reward")  # of a judge
        if OmegaConf.is_dict(reward) and reward.get("path") and not _is_here(reward.path):
            loaded = path_is(reward) == "loaded"
            yield HubSource("model", reward.path, reward.get("revision"), f"{key}.reward.path", weights=loaded)
    if "speeches" in config:
        parts = [(f"speeches.sources[{index}]", part) for index, part in enumerate(config.speeches.sources)]
        for key, part in parts or [("speeches", config.speeches)]:
            if part.path and not _is_here(part.path):
                yield HubSource("dataset", part.path, part.get("revision"), f"{key}.path")


def _is_here(path: str) -> bool:
    """Whether it ships with the package or is a file or folder."""
    return path.startswith(("builtin:", "/")) or Path(path).exists()


def named(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    """Each source of a checked configuration with the key of its revision; what ships or is local is none."""
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
    """Use the commits that a run began with, where `config` asks for none and names the same repositories."""
    for source, revision in named(config):
        if source.revision is None and OmegaConf.select(existing, source.key) == source.id:
            OmegaConf.update(config, revision, OmegaConf.select(existing, revision))


def pin(config: DictConfig) -> None:
    """Use the commits that were prepared, where `config` asks for none."""
    for source, revision in named(config):
        record = read_json(_prepared(config.paths.cache, source))
        if source.revision is None and record:
            OmegaConf.update(config, revision, record["commit"])


def record(cache: str, source: HubSource, commit: str) -> None:
    """Let new runs use this commit. One file a source, so that two commands at once do not undo each other's."""
    path = _prepared(cache, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"kind": source.kind, "id": source.id, "commit": commit})


def _prepared(cache: str, source: HubSource) -> Path:
    return Path(cache) / "prepared" / f"{folder_name(source)}.json"


def folder_name(source: HubSource) -> str:
    return f"{source.kind}s--{source.id.replace('/', '--')}"  # as huggingface_hub names it
