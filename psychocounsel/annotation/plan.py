"""Which steps of an annotate directory are to be done, and what made those that are."""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.sections.annotation_groups import MODEL_GROUPS
from psychocounsel.settings.targets import build
from psychocounsel.settings.typed.annotate_keys import STEPS
from psychocounsel.storage.files import read_mapping

Settings = dict[str, Any]  # dotted key -> value

# What a step reads of the configuration besides what earlier steps read.
_READ = {
    "speeches": ("speeches", "pairs.test_fraction", "pairs.split_seed"),
    "replies": ("writers", "replies", "crisis_to_third_parties"),
    "scores": ("annotator", "scores", "crisis_to_third_parties"),
    "pairs": ("pairs",),
    "card": ("card", "accept_terms"),
}
# How servers are reached, what they cost and who may see texts: another value gives the same answers. `third_party` and
# `addresses` decide who is asked about a crisis, which `_third_parties` tells.
_GROUPS = ("speeches", *MODEL_GROUPS)  # the groups whose keys are meant: `scores.retries` is of another kind
_LEAVES_ANSWERS_ALONE = {
    *("addresses", "key_variable", "concurrency", "timeout_seconds", "retries", "third_party"),
    *("input_price", "output_price", "currency", "confidential", "allowed_hosts"),
}
_NAMES_FILES = ("system_prompt", "rubric", "topics", "risk_cues", "chat_template")


@dataclass(frozen=True)
class Planned:
    """A step that a command asks for. `due`: it is to be done, else it was done from the same settings before."""

    step: str
    due: bool
    settings: Settings
    sources: dict[
        str, Any
    ]  # what else it was made from: sizes and times of the sources' files, the share of the speeches
    fingerprint: str


def directory(config: DictConfig) -> AnnotationDir:
    """The files that a job works on: of the data set, or of its shard."""
    whole = AnnotationDir(Path(config.out))
    return whole if config.share is None else whole.shard(config.share)


def outputs(files: AnnotationDir, step: str) -> Path:
    """What a step leaves: without it the step is not done, whatever its record says."""
    made = {"speeches": files.speeches, "replies": files.replies, "scores": files.votes}
    return made.get(step, files.card if step == "card" else files.dataset / "train.parquet")


def planned(config: DictConfig, files: AnnotationDir) -> list[Planned]:
    """The steps of `config.steps` in their order, each due or done.

    Raises:
        UserError: if an earlier step that is not among them is missing, or was done from other settings.
    """
    found, upstream, fresh = list[Planned](), "", set[str]()
    for step in STEPS[: STEPS.index(config.steps[-1]) + 1]:
        record, asked = read_mapping(files.step(step)), step in config.steps
        settings = step_settings(config, step)
        sources = record.get("sources", {})
        if step == "speeches" and asked:
            sources = source_marks(config) or sources  # sources that are gone were read before
        elif config.share is not None and step != "speeches":
            sources = {**sources, "share": f"{config.share} of {config.shards}"}
        made_from = fingerprint(step, settings, sources, upstream)
        is_done = record.get("fingerprint") == made_from and outputs(files, step).exists()
        if asked and is_done and len(config.steps) < len(STEPS) and _has_failed(record["figures"]):
            sources = {**sources, "again": sources.get("again", 0) + 1}  # what comes after it is then due as well
            made_from, is_done = fingerprint(step, settings, sources, upstream), False
        if asked:
            found.append(Planned(step, not is_done, settings, sources, made_from))
            fresh |= {step} if not is_done else set()
        elif not is_done:
            _refuse(config, files, step, record, settings, fresh)
        upstream = made_from
    return found


def _has_failed(figures: Any) -> bool:
    """Whether calls of the step got no answer: where the step is asked for by its name, they are tried again."""
    return isinstance(figures, dict) and bool(
        figures.get("failed") or any(_has_failed(inner) for inner in figures.values())
    )


def _refuse(
    config: DictConfig, files: AnnotationDir, step: str, record: dict[str, Any], settings: Settings, fresh: set[str]
) -> None:
    """Say what to type where `step`, which is not asked for, is not done from these settings."""
    later = next(each for each in config.steps if STEPS.index(each) > STEPS.index(step))
    wanted = f"steps=[{','.join(each for each in STEPS if each in (*config.steps, step))}]"
    made = outputs(files, step)
    if not record or not made.exists():
        raise UserError(f"{later} needs {made.name} in {files.path}: add {step} to steps, {wanted}")
    before = record.get("settings", {})
    differing = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
    if differing:
        key = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(
            f"{key}={_shown(settings.get(key))}{more}: {files.path} has {step} of {key}={_shown(before.get(key))}; "
            f"add {step} to steps, {wanted}, or give the value of before"
        )
    reason = f"{', '.join(sorted(fresh))} would be new" if fresh else "what comes before it has changed"
    raise UserError(f"{later} needs {step} made anew, because {reason}: add {step} to steps, {wanted}")


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def step_settings(config: DictConfig, step: str) -> Settings:
    """What decides a step's result, apart from earlier steps."""
    flat: Settings = {}
    for key in _READ[step]:
        value = OmegaConf.select(config, key)
        _flatten(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, key, flat)
    if step == "pairs":
        for key in ("pairs.test_fraction", "pairs.split_seed"):  # of speeches
            flat.pop(key, None)
    kept = {key: _of_files(key, value) for key, value in flat.items() if not _leaves_answers_alone(key)}
    return kept | _third_parties(config, step)


def _leaves_answers_alone(key: str) -> bool:
    group, *parts = key.split(".")
    return group in _GROUPS and not _LEAVES_ANSWERS_ALONE.isdisjoint(parts)


def _third_parties(config: DictConfig, step: str) -> Settings:
    """The models of a step that get no crisis speeches, by their names; {} where all may see all."""
    group = next((group for group in MODEL_GROUPS if group in _READ[step]), None)
    if group is None or config.crisis_to_third_parties:
        return {}
    names = sorted(model.name for model in build(config, group).models() if model.is_third_party())
    return {f"{group}.third_parties": names} if names else {}


def _of_files(key: str, value: Any) -> Any:
    """What a file or folder that a setting names holds now, as its hash; else the value."""
    if key.rpartition(".")[2] not in _NAMES_FILES or not isinstance(value, str):
        return value
    path = Path(value)
    with contextlib.suppress(OSError):  # a text that is too long for a path
        if path.is_absolute() and path.exists():
            files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
            return hashlib.sha256(b"\0".join(each.read_bytes() for each in files)).hexdigest()
    return value


def _flatten(value: Any, key: str, flat: Settings) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten(inner, f"{key}.{name}", flat)
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for index, inner in enumerate(value):
            _flatten(inner, f"{key}.{index}", flat)
    else:
        flat[key] = value


def fingerprint(step: str, settings: Settings, sources: dict[str, Any], upstream: str) -> str:
    content = json.dumps([step, settings, sources, upstream], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def source_marks(config: DictConfig) -> dict[str, Any]:
    """Size and time of change of each file that speeches are read from; {} if one is not there any more."""
    files: Iterable[Path] = build(config, "speeches").files()
    try:
        return {str(path): [(about := path.stat()).st_size, about.st_mtime_ns] for path in files}
    except OSError:
        return {}
