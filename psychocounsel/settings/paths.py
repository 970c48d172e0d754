"""Paths in a configuration: whether they exist, whether an earlier run will make them, their absolute form and their names."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import slug
from psychocounsel.rundir.paths import RunDir, outputs_of, run_of_model
from psychocounsel.rundir.run_config import is_run, module_of
from psychocounsel.rundir.sweep import telling_name
from psychocounsel.rundir.trust import refuse_untrusted_model
from psychocounsel.settings.schema import refuse_empty
from psychocounsel.storage.files import SHIPPED_MODELS, absolute, expanded, folder_of
from psychocounsel.storage.weight_files import holds_config, is_reward_model, refuse_gguf

SHIPPED_DATA = ("builtin:sample", "builtin:everyday")
_LOOKS_LOCAL = re.compile(r"^[./~]|\.(jsonl?|parquet|jinja|csv|tsv|gz)$")


def require_paths(config: DictConfig) -> None:
    for key in ("output", "cache"):
        if not str(OmegaConf.select(config, f"paths.{key}") or ""):
            raise UserError(f"paths.{key} is empty: give a folder, or unset PSYCHOCOUNSEL_{key.upper()}")


def is_made_before(config: DictConfig, path: str) -> bool:
    """Return True if `path` does not exist yet and lies in the output of a run named in `after`, which will make it."""
    return not expanded(path).exists() and is_of_earlier_run(config, path)


def is_of_earlier_run(config: DictConfig, path: str) -> bool:
    """Return True if `path` lies in the output of a run named in `after`."""
    named = config.get("after") if OmegaConf.is_list(config.get("after")) else []  # `after` is not checked yet
    place, *parents = (Path(absolute(str(text))) for text in (path, *named))
    return any(place.is_relative_to(made) for parent in parents for made in outputs_of(parent))


def check_shipped(value: str, key: str, of_data: bool = False) -> None:
    """Raise UserError if `value` is a `builtin:` name that the package does not contain."""
    models = [f"builtin:{folder.name}" for folder in sorted(SHIPPED_MODELS.iterdir())]
    names = [*SHIPPED_DATA, "builtin:clients"] if of_data else models
    if value not in names:
        raise UserError(f"{key}={value}: does not ship with the package; these do: {', '.join(names)}")


def model_at(path: str, key: str, revision: str | None) -> str:
    """Return the path of a model, which is RUN/model for the directory of a run.

    Raises:
        UserError: naming `key`, if it is empty, if there is no such model, or if another user could have written the model of a
            run.
    """
    refuse_empty(path, key)
    model = path
    if is_run(expanded(path)):
        folder = RunDir(expanded(path)).model
        if not folder.is_dir():
            maker = module_of(expanded(path)).removeprefix("psychocounsel.")
            if maker not in ("", "train"):
                raise UserError(f"{key}={path}: is a run of `psychocounsel {maker}`, which makes no model")
            raise UserError(f"{key}={path}: the run has no model yet ({folder.name}/ is written when it ends)")
        model = str(folder)
    check_local_path(model, key, folder=True, revision=revision)
    run = run_of_model(expanded(model).absolute())
    if run and is_run(run):
        refuse_untrusted_model(run)
    return model


def _refuse_missing_folder(value: str, key: str, revision: str | None) -> None:
    """Refuse a missing relative folder of more than two parts, or `PARENT/NAME` whose parent exists: hardly a hub id.

    With a `revision`, which folders have not, the second form is one all the same.

    Raises:
        UserError: naming the key, and how to give a hub id of this form.
    """
    parent = Path(value).parent
    if value.count("/") > 1 and not value.startswith(("/", "~")) and not Path(value).exists():
        raise UserError(f"{key}={value}: no such file or folder (a hub id has the form ORG/NAME)")
    if not revision and value.count("/") == 1 and not Path(value).exists() and parent.is_dir():
        of_hub = f"if {value} of the hub is meant, give its revision as well, for instance main"
        raise UserError(f"{key}={value}: {parent}/ has no such folder ({of_hub})")


def check_local_path(
    value: str | None,
    key: str,
    folder: bool = False,
    must_exist: bool = False,
    of_data: bool = False,
    revision: str | None = None,
) -> None:
    """Check that a local path exists; a missing path of the form `org/name` is taken for a hub id if there is no folder `org`.

    Raises:
        UserError: if the path does not exist, or if `folder` is set and the path is not a model's folder.
    """
    if not value:
        return
    if value.startswith("builtin:"):
        check_shipped(value, key, of_data)
        return
    path = expanded(value)
    if not path.exists() and (must_exist or _LOOKS_LOCAL.search(value) or value.count("/") != 1):
        hint = "" if must_exist else " (a hub id has the form ORG/NAME)"
        raise UserError(f"{key}={value}: no such file or folder{hint}")
    _refuse_missing_folder(value, key, revision)
    if folder:
        refuse_gguf(value, key)
    if folder and path.is_file():
        raise UserError(f"{key}={value}: is a file; give the folder that contains config.json")
    if folder and path.is_dir() and not holds_config(path):
        raise UserError(f"{key}={value}: the folder contains no config.json, so it is not a model")


def check_asked_model(config: DictConfig, key: str, section: Any) -> None:
    """Check the path of a language model that runs in this process, and replace the path of a run by that of its model.

    Raises:
        UserError: naming `key`, as `model_at` does, or if it is a reward model.
    """
    path = section.get("model")
    if "revision" not in section or not path or is_made_before(config, path):
        return
    model = section["model"] = model_at(path, f"{key}.model", section["revision"])
    if is_reward_model(folder_of(model)):
        raise UserError(f"{key}.model={path}: is a reward model, which writes no answers")


def make_absolute(config: DictConfig, section: DictConfig, keys: Iterable[str]) -> None:
    """Make the paths at `keys` of a section absolute if they exist, because jobs may start in another directory.

    So is a .txt file given as `system_prompt`.
    """
    for key in keys:
        value = section.get(key)
        if value and is_of_earlier_run(config, value):  # not resolved, because the best run of a stage is a link
            section[key] = absolute(value)
        elif value and not value.startswith("builtin:") and expanded(value).exists():
            section[key] = str(expanded(value).resolve())
    if str(section.get("system_prompt")).endswith(".txt"):
        section.system_prompt = absolute(section.system_prompt)


def make_folders_absolute(config: DictConfig) -> None:
    """Make the folders of a run, and of the runs that it starts after, absolute."""
    for key in ("output", "cache"):
        config.paths[key] = absolute(config.paths[key])
    for key in filter(config.get, ("run_dir", "sweep_dir")):
        config[key] = absolute(config[key])
    if config.get("after") is not None:
        config.after = [absolute(parent) for parent in config.after]
    make_cluster_absolute(config)


def make_cluster_absolute(config: DictConfig) -> None:
    """Make the Python of the jobs and a file of a container image absolute, because a batch script quotes its words.

    A name such as `python3`, which jobs search in PATH, and an image of a registry are kept.
    """
    python, image = (OmegaConf.select(config, f"cluster.{key}") for key in ("python", "container.image"))
    if python and "/" in python:
        config.cluster.python = absolute(python)
    if image and expanded(image).exists():
        config.cluster.container.image = absolute(image)


def name_by_path(section: DictConfig, generic: Collection[str]) -> None:
    """Name a section after the path that the user gave, if its preset (one of `generic`) fits any path or shipped files."""
    path: Any = section.get("path")
    if section.get("name") in generic and path and not path.startswith("builtin:"):
        place = Path(path)
        section.name = slug(place.stem if place.is_file() else telling_name(run_of_model(place) or place))
