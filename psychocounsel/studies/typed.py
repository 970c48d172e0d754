"""Command line of `launch`: the study, its values, overrides of stages, and options of the run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from psychocounsel.errors import UserError
from psychocounsel.rundir.run_names import key_of
from psychocounsel.settings.keys import refuse_lines_in_overrides
from psychocounsel.settings.typed.overrides import parted
from psychocounsel.studies.planning import merged
from psychocounsel.studies.references import value_of, values_of_overrides
from psychocounsel.studies.study_file import Study, find_study, near, read_study, shipped_studies

_KEYS = ("study", "study_dir", "only", "start_at", "force", "parallel", "dry_run")
_OF_ALL_STAGES = ("cluster", "paths", "tracker")  # groups whose keys are passed to every stage


@dataclass
class Launch:
    """A command: the study with the typed values, its folder, and the stages and options of the run."""

    study: Study
    folder: Path
    only: list[str] = field(default_factory=list)
    start_at: str | None = None
    force: list[str] = field(default_factory=list)
    parallel: int = 1
    dry_run: bool = False
    common: list[str] = field(default_factory=list)  # overrides of every stage
    config_folders: list[Path] = field(default_factory=list)


def read_arguments(arguments: Sequence[str]) -> Launch:
    """Return the command for the arguments of `launch`.

    Raises:
        UserError: for an unknown study or key or an invalid value, with what to type instead.
    """
    options, overrides = parted(arguments)
    refuse_lines_in_overrides(overrides)
    folders = _config_folders(options)
    typed = {key_of(text): text for text in overrides if key_of(text) in _KEYS and "=" in text}
    if "study" not in typed:
        raise UserError(
            f"study is not set: give study=NAME or study=FILE.yaml ({', '.join(shipped_studies()) or 'none ships'})"
        )
    file = find_study(_text("study", typed["study"]))
    study, launch_keys = read_study(file), {key: text for key, text in typed.items() if key != "study"}
    common, values = list[str](), dict(study.values)
    of_stages: dict[str, list[str]] = {}
    raw = values_of_overrides(study.stages.values())
    for text in (text for text in overrides if key_of(text) not in typed):
        key = key_of(text)
        group, _, rest = key.partition(".")
        if key in study.values:
            values[key] = _overrides(text) if key in raw else value_of(text)
        elif group in study.stages and rest:
            start = text[: len(text) - len(text.lstrip("+~"))]
            of_stages.setdefault(group, []).append(start + text.lstrip("+~").partition(".")[2])
        elif group in _OF_ALL_STAGES:
            common.append(text)
        else:
            _refuse(text, study)
    study = replace(study, values=values)
    for name, own in of_stages.items():
        stage = study.stages[name]
        study = study.with_stage(replace(stage, overrides=tuple(merged(stage.overrides, own))))
    folder = _text("study_dir", launch_keys.pop("study_dir", f"study_dir=studies/{study.name}"))
    launch = Launch(study, Path(os.path.abspath(os.path.expanduser(folder))), common=common, config_folders=folders)
    for key, text in launch_keys.items():
        setattr(launch, key, _READ[key](key, text))
    if launch.folder.exists() and not launch.folder.is_dir():
        raise UserError(f"study_dir={folder}: is a file; give a folder")
    return launch


def _overrides(text: str) -> Any:
    """Return a value that is used as overrides: literally, or as Hydra reads it if it is quoted or null."""
    value = text.partition("=")[2]
    return value_of(text) if value == "null" or value[:1] in ("'", '"') else value


def _refuse(text: str, study: Study) -> NoReturn:
    """Refuse a key that is neither the command's, nor a stage's, nor a value of the study."""
    key = key_of(text)
    rest = key.partition(".")[2]
    known = [*_KEYS, *study.values, *(f"{stage}.{rest or key}" for stage in study.stages)]
    has = ", ".join([*study.values, *(f"{stage}.KEY" for stage in study.stages), *_KEYS, "cluster", "paths", "tracker"])
    raise UserError(f"{text}: is not a key of study={study.name}; {near(key, known)}(it has {has})")


def _config_folders(options: Sequence[str]) -> list[Path]:
    folders = []
    for place in range(0, len(options)):
        name, _, value = options[place].partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(os.path.abspath(os.path.expanduser(value or options[place + 1]))))
        elif name.startswith("-"):
            raise UserError(f"{name}: launch has no such option; see --help")
    return folders


def _text(key: str, text: str) -> str:
    value = value_of(text)
    if not isinstance(value, str) or not value:
        raise UserError(f"{text}: give one name or path, as {key}=NAME")
    return value


def _names(key: str, text: str) -> list[str]:
    value = value_of(text)
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{text}: give stages, as {key}=[NAME,NAME]")
    return names


def _count(key: str, text: str) -> int:
    value = value_of(text)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{text}: give the number of parallel runs, 1 or more")
    return value


def _truth(key: str, text: str) -> bool:
    value = value_of(text)
    if not isinstance(value, bool):
        raise UserError(f"{text}: must be true or false")
    return value


_READ: dict[str, Any] = {
    "only": _names,
    "start_at": _text,
    "force": _names,
    "parallel": _count,
    "dry_run": _truth,
}
