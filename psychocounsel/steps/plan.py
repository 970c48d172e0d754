"""Decides which steps of a directory are due. A step is due if its settings, source files or earlier steps have changed."""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import StepsDir
from psychocounsel.rundir.run_config import FIRST_NAMES
from psychocounsel.settings.schema import marked
from psychocounsel.settings.targets import target_class
from psychocounsel.steps.course import Course
from psychocounsel.storage.files import PACKAGE, read_mapping
from psychocounsel.storage.hashes import code_id

Settings = dict[str, Any]  # dotted key -> value
F = TypeVar("F", bound=StepsDir)

# Settings about access, prices and privacy: changing them does not change answers. `third_party` and `addresses` also decide
# which models see crisis speeches; `_third_parties` accounts for that.
_ACCESS_SETTINGS = {
    *("addresses", "key_variable", "concurrency", "timeout_seconds", "retries", "third_party"),
    *("input_price", "output_price", "currency", "confidential", "allowed_hosts"),
}
_CODE = "psychocounsel's code"  # the key of a code hash, for steps that ask no model
_WEIGHTS = "local_weights"  # comes between group and model name in the key of a local model's weights
_FILE_KEYS = (
    "system_prompt",
    "prompt",
    "rubric",
    "topics",
    "risk_cues",
    "chat_template",
    "trained_on",
    "adjudicated",
)


@dataclass(frozen=True)
class PlannedStep:
    """A step that the user asked for.

    Attributes:
        due: True if the step must run; False if it was done before with the same settings.
        sources: its other inputs: sizes and modification times of the source files, and the share of the speeches.
    """

    step: str
    due: bool
    settings: Settings
    sources: dict[str, Any]
    fingerprint: str


def requested_steps(course: Course[F], config: DictConfig) -> list[str]:
    """Return the steps that the configuration names, or all steps if `steps` is null."""
    return list(config.steps) if config.steps is not None else [*course.steps]


def planned_steps(course: Course[F], config: DictConfig, files: F) -> list[PlannedStep]:
    """Return the steps that `config` asks for, in order, each marked as due or done.

    Raises:
        UserError: if an earlier step that `config` does not ask for is missing or was done with other settings.
    """
    plans, upstream, repeated = list[PlannedStep](), "", set[str]()
    steps, share = requested_steps(course, config), config.get("share")
    for step in course.steps[: course.steps.index(steps[-1]) + 1]:
        record, requested = read_mapping(files.step(step)), step in steps
        settings = step_settings(course, config, step)
        settings |= _recorded_weights(record.get("settings", {}), settings)
        sources = record.get("sources", {})
        if step == course.steps[0] and requested:
            sources = course.sources(config) or sources  # if a source file is gone, the recorded sizes and times count
        if share is not None and files.step(step).parent == files.steps:  # the record covers only this shard
            sources = {**sources, "share": f"{share} of {config.shards}"}
        new_fingerprint = fingerprint(step, settings, sources, upstream)
        is_done = record.get("fingerprint") == new_fingerprint and course.output(files, step).exists()
        by_name = requested and len(steps) < len(course.steps)
        if by_name and step in course.redone:
            is_done = False
        if by_name and is_done and failed_calls(record["figures"]):
            sources = {**sources, "again": sources.get("again", 0) + 1}  # makes the later steps due as well
            new_fingerprint, is_done = fingerprint(step, settings, sources, upstream), False
        if requested:
            plans.append(PlannedStep(step, not is_done, settings, sources, new_fingerprint))
            repeated |= {step} if not is_done else set()
        elif not is_done:
            _refuse(course, config, files, step, record, settings, repeated)
        upstream = new_fingerprint
    return plans


def failed_calls(figures: Any) -> int:
    """Return how many calls of the step failed. They are repeated when the user names the step in `steps`."""
    if not isinstance(figures, dict):
        return 0
    own = figures.get("failed", figures.get("outcomes"))  # what stands beside them may count the same calls again
    if isinstance(own, int):
        return own
    return sum(failed_calls(inner) for inner in ([own] if own is not None else figures.values()))


def _refuse(
    course: Course[F],
    config: DictConfig,
    files: F,
    step: str,
    record: dict[str, Any],
    settings: Settings,
    repeated: set[str],
) -> None:
    """Raise a UserError that says what to type, because the earlier `step` is not done with these settings."""
    steps = requested_steps(course, config)
    later = next(name for name in steps if course.steps.index(name) > course.steps.index(step))
    wanted = f"steps=[{','.join(name for name in course.steps if name in (*steps, step))}]"
    made = course.output(files, step)
    if not record or not made.exists():
        raise UserError(f"{later} needs {made.name} in {files.path}: add {step} to steps, {wanted}")
    before = record.get("settings", {})
    differing = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
    if differing:
        key = differing[0]
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(
            f"{key}={_shown(settings.get(key))}{more}: {files.path} has {step} made with {key}={_shown(before.get(key))}; "
            f"add {step} to steps, {wanted}, or restore the earlier value"
        )
    reason = f"{', '.join(sorted(repeated))} would be made again" if repeated else "an earlier step has changed"
    raise UserError(f"{later} needs {step} made again, because {reason}: add {step} to steps, {wanted}")


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def step_settings(course: Course[F], config: DictConfig, step: str) -> Settings:
    """Return the settings that a step's result depends on, apart from those of earlier steps."""
    flat: Settings = {}
    for key in course.keys(config, step):
        value = OmegaConf.select(config, key)
        _flatten(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, key, flat)
    for key in course.omits.get(step, ()):
        flat.pop(key, None)
    paths = _path_keys(course, config)
    kept = {
        key: _content(value) if key in paths or key.rpartition(".")[2] in _FILE_KEYS else value
        for key, value in flat.items()
        if not _is_access_key(course, key)
    }
    # A class that moved keeps its first name here, so that finished steps of earlier versions stay done.
    kept |= {key: FIRST_NAMES.get(value, value) for key, value in kept.items() if key.endswith("._target_")}
    code = {_CODE: _code_of(course.code[step])} if step in course.code else {}
    return kept | _third_parties(course, config, step) | _weights(course, config, step) | code


@cache
def _code_of(patterns: tuple[str, ...]) -> str:
    """Return a hash of the package's files that match one of `patterns`."""
    return code_id(*{file for pattern in patterns for file in PACKAGE.glob(pattern)})


def _is_access_key(course: Course[F], key: str) -> bool:
    group, *parts = key.split(".")
    return group in course.answering and not _ACCESS_SETTINGS.isdisjoint(parts)


def _third_parties(course: Course[F], config: DictConfig, step: str) -> Settings:
    """Return the names of the step's models that get no crisis speeches, by group; {} if every model may see all speeches."""
    if config.crisis_to_third_parties:
        return {}
    third_parties = {}
    for group, models in course.models(config, step).items():
        if names := sorted(model.name for model in models if model.is_third_party()):
            third_parties[f"{group}.third_parties"] = names
    return third_parties


def _weights(course: Course[F], config: DictConfig, step: str) -> Settings:
    """Return a hash of each local model that a step asks, so that new weights under the same path make the step due."""
    return {
        f"{group}.{_WEIGHTS}.{model.name}": content
        for group, models in course.models(config, step).items()
        for model in models
        if (content := model.content())
    }


def _recorded_weights(before: Settings, settings: Settings) -> Settings:
    """Return the recorded hashes of models whose folders no longer exist: a finished step does not need them any more."""
    return {key: value for key, value in before.items() if f".{_WEIGHTS}." in key and key not in settings}


def _path_keys(course: Course[F], config: DictConfig) -> set[str]:
    """Return the keys of the course's group that name files or folders whose content counts."""
    marks = marked(target_class(config, course.group), "path") if course.group else {}
    return {f"{course.group}.{name}" for name, mark in marks.items() if mark is True}


def _content(value: Any) -> Any:
    """Return a hash of the contents if a value names a file or folder, and otherwise the value itself."""
    if isinstance(value, list):
        return [_content(item) for item in value]
    if not isinstance(value, str):
        return value
    path = Path(value)
    with contextlib.suppress(OSError):  # raised for a text that is too long for a path
        if path.is_absolute() and path.exists():
            files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    return value


def _flatten(value: Any, key: str, flat: Settings) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten(inner, f"{key}.{name}", flat)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            _flatten(inner, f"{key}.{index}", flat)
    else:
        flat[key] = value


def fingerprint(step: str, settings: Settings, sources: dict[str, Any], upstream: str) -> str:
    content = json.dumps([step, settings, sources, upstream], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()
