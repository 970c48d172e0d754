"""Composing, checking and comparing configurations, without torch. Every error is one line that says what to type."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from psychocounsel.errors import UserError
from psychocounsel.settings.command import Command
from psychocounsel.settings.keys import SINGLE_LINES, missing_key, refuse_control_characters, unknown_key, wrong_value
from psychocounsel.settings.overrides import quote_choice
from psychocounsel.settings.paths import make_folders_absolute, require_paths
from psychocounsel.settings.resolvers import register_resolvers
from psychocounsel.settings.schema import NoKeys, check_limits, flat_keys
from psychocounsel.settings.targets import add_code_path, build, target_class
from psychocounsel.storage.files import shipped

# Groups whose YAML names its dataclass by `_target_`.
GROUPS = (
    *("algo", "cluster", "tracker", "reward", "rollout", "speeches", "evaluation", "personas"),
    *("writers", "annotator", "contestants", "judge", "client", "clients"),
)

register_resolvers()


def compose(overrides: Sequence[str], name: str = "train", folders: Sequence[str] = ()) -> DictConfig:
    """Return `conf/<name>.yaml` composed with `overrides`, without names resolved and without checks.

    `folders` are further folders with configurations.

    Raises:
        HydraException: for an override that cannot be parsed, or that names a missing file or key.
    """
    with hydra_set_up(tuple(folders)):
        loader = GlobalHydra.instance().config_loader()
        return without_hydra(loader.load_configuration(name, [*map(quote_choice, overrides)], RunMode.RUN))


@contextmanager
def hydra_set_up(folders: tuple[str, ...]) -> Iterator[None]:
    """Set Hydra up for `conf/` and further folders of configurations, whose files come first."""
    before, prepared = GlobalHydra.instance().hydra, _hydra_of(folders)
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(prepared)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


@cache
def _hydra_of(folders: tuple[str, ...]) -> Hydra:
    """Return Hydra with the given folders, cached because it lists all files of its folders."""
    version.setbase("1.3")
    search = create_config_search_path(search_path_dir=str(shipped("conf").resolve()))
    for folder in folders:
        search.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2(task_name="psychocounsel", config_search_path=search)


def check(command: Command, composed: DictConfig) -> DictConfig:
    """Return a command's composed configuration with types checked and interpolations resolved.

    Raises:
        UserError: for an unknown key, a wrong type or range, or a combination that cannot work.
    """
    add_code_path(composed.get("code_path") or [])
    plain = without_hydra(composed)
    require_paths(plain)
    command.leave_out(plain)
    config = typed(plain, command.schema(plain))
    values: Any = OmegaConf.to_container(config)
    for key in SINGLE_LINES:
        refuse_control_characters(values.get(key), key)
    if config.get("cluster") is not None:
        build(config, "cluster").check()
    command.check(config, plain)
    make_folders_absolute(config)
    return config


def without_hydra(composed: DictConfig) -> DictConfig:
    """Remove Hydra's own section from a composed configuration, and return the configuration, to which keys may be added."""
    if composed.get("hydra") is not None:
        with open_dict(composed):
            del composed["hydra"]
        composed._set_flag("struct", None)
    return composed


def with_values(command: Command, config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Return a copy of a checked configuration with new values at dotted keys, checked for types and limits.

    Raises:
        UserError: for an unknown key, or a value that the key cannot have.
    """
    plain = OmegaConf.create(OmegaConf.to_container(config))
    assert isinstance(plain, DictConfig)
    for key, value in values.items():
        OmegaConf.update(plain, key, value, merge=False)
    return typed(plain, command.schema(plain))


def typed_groups(plain: DictConfig) -> DictConfig:
    """Return a configuration that contains only groups with a `_target_`, with their types and limits checked."""
    return typed(plain, NoKeys)


def type_section(config: DictConfig, key: str, group: str) -> None:
    """Check the section at `key`, a choice of `group` inside of another group, against its dataclass; nothing if it is empty.

    Raises:
        UserError: naming the key.
    """
    section = OmegaConf.select(config, key)
    if not section:
        return
    if OmegaConf.is_missing(section, "model"):  # other keys are made of it, and would be named instead
        raise UserError(f"{key}.model is not set: add {key}.model=NAME")
    try:
        checked = typed_groups(OmegaConf.create({group: section}))[group]
    except UserError as error:
        raise UserError(re.sub(rf"(?<![.\w]){group}(?=[.=])", key, str(error))) from error
    OmegaConf.update(config, key, OmegaConf.to_container(checked))


def typed(plain: DictConfig, fields: type) -> DictConfig:
    """Return `plain` with the types of the dataclass `fields` and of the dataclasses named by its groups, limits checked."""
    targets = _targets(plain)
    config = _merge(_schema_of(plain, fields, targets), plain)
    check_limits(fields, config, skip=targets)
    for group, target in targets.items():
        check_limits(target, config[group], f"{group}.")
    return config


def dictionary_above(command: Command, plain: DictConfig, key: str) -> str | None:
    """Return the nearest key above `key` whose value is a dictionary with names that the user chooses, or None."""
    schema = _schema_of(plain, command.schema(plain), _targets(plain))
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        parent = OmegaConf.select(schema, ".".join(parts[: end - 1])) if end > 1 else schema
        kind = OmegaConf.get_type(parent) if OmegaConf.is_dict(parent) else None
        hint = get_type_hints(kind).get(parts[end - 1]) if dataclasses.is_dataclass(kind) else None
        if any(get_origin(part) is dict for part in (hint, *get_args(hint))):
            return ".".join(parts[:end])
    return None


def _targets(plain: DictConfig) -> dict[str, type]:
    groups = [group for group in GROUPS if group in plain]
    if OmegaConf.select(plain, "data._target_"):
        groups.append("data")  # the user's own data source reads the rows
    return {group: target_class(plain, group) for group in groups}


def _schema_of(plain: DictConfig, fields: type, targets: Mapping[str, type]) -> DictConfig:
    names = tuple(plain[group]["_target_"] for group in targets)
    return _schema(fields, tuple(targets.items()), names)


@cache
def _schema(fields: type, targets: tuple[tuple[str, type], ...], names: tuple[str, ...]) -> DictConfig:
    schema = OmegaConf.structured(fields)
    with open_dict(schema):
        for (group, target), name in zip(targets, names, strict=True):
            schema[group] = OmegaConf.structured(target)
            schema[group]._set_flag("struct", False)
            schema[group]["_target_"] = name
            schema[group]._set_flag("struct", True)
            for item in dataclasses.fields(target):
                if OmegaConf.get_type(schema[group], item.name) is dict:  # the user chooses its keys
                    schema[group]._get_node(item.name)._set_flag("struct", False)
    return schema


def check_sections(fields: type, plain: DictConfig) -> None:
    """Refuse a single value or a list for a section of the dataclass `fields`, before names in sections are resolved.

    Raises:
        UserError: naming the key and what to type instead.
    """
    _check_sections(_schema(fields, (), ()), plain)


def _check_sections(schema: DictConfig, plain: DictConfig, prefix: str = "") -> None:
    """Implements `check_sections`; OmegaConf's own error does not name the key."""
    for key in map(str, schema):
        section, given = schema._get_node(key), plain._get_node(key, validate_access=False)
        if isinstance(section, DictConfig) and isinstance(given, ListConfig):
            raise UserError(f"{prefix}{key}: is a dictionary, written {{NAME: VALUE}}")
        if (
            given is None
            or not isinstance(section, DictConfig)
            or not OmegaConf.get_type(section)
            or section._is_none()
        ):
            continue
        if not isinstance(given, DictConfig) or given._is_none():
            inner = list(map(str, section))
            if dataclasses.is_dataclass(OmegaConf.get_type(section)):
                raise UserError(
                    f"{prefix}{key}: contains several settings; give one of them, for instance {prefix}{key}.{inner[0]}=VALUE"
                )
        else:
            _check_sections(section, given, f"{prefix}{key}.")


def _merge(schema: DictConfig, plain: DictConfig) -> DictConfig:
    try:
        _check_sections(schema, plain)
        config = OmegaConf.merge(schema, plain)
        OmegaConf.resolve(config)
    except ConfigKeyError as error:
        raise UserError(unknown_key(error.full_key or str(error), flat_keys(schema))) from error
    except (ValidationError, OmegaConfBaseException) as error:
        if missing := missing_key(error):
            raise UserError(f"{missing} is not set: add {missing}=VALUE") from error
        raise UserError(wrong_value(error)) from error
    assert isinstance(config, DictConfig)
    return config
