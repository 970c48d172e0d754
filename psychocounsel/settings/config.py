"""Composing, checking and comparing configurations, without torch. Every error is one line that says what to type."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import slug
from psychocounsel.rundir.paths import run_of_model
from psychocounsel.rundir.run_names import telling_name
from psychocounsel.settings.checks import (
    check_combinations,
    check_data,
    check_length,
    check_needs,
    check_reward_paths,
    make_paths_absolute,
    require_paths,
)
from psychocounsel.settings.compositions import Compositions, merged, resolve, spare_work
from psychocounsel.settings.confidential import check_confidential
from psychocounsel.settings.keys import (
    SINGLE_LINES,
    missing_key,
    refuse_control_characters,
    refuse_renamed,
    unknown_key,
    wrong_value,
)
from psychocounsel.settings.overrides import quote_choice as quote_choice
from psychocounsel.settings.resolvers import register_resolvers
from psychocounsel.settings.reward_sections import check_entries, check_rewards, name_rewards, reward_sections
from psychocounsel.settings.schema import MixEntry, NoKeys, TrainConfig, check_limits, flat_keys
from psychocounsel.settings.sections.annotation_groups import MODEL_GROUPS, check_models
from psychocounsel.settings.sections.counterfactual_checks import check_counterfactuals
from psychocounsel.settings.sections.evaluated_part import settle_part
from psychocounsel.settings.sections.figure_names import check_checkpoint_metric
from psychocounsel.settings.sections.reply_checks import check_guard, check_held_out_replies, check_rollouts
from psychocounsel.settings.sections.shipped_rewards import refuse_shipped_rewards
from psychocounsel.settings.sections.training_pairs import check_training_pairs
from psychocounsel.settings.targets import add_code_path
from psychocounsel.settings.targets import build as build
from psychocounsel.settings.targets import target_class as target_class
from psychocounsel.settings.typed.annotate_keys import AnnotateConfig, check_annotate
from psychocounsel.settings.typed.audit_keys import AuditConfig, check_against, leave_out_reward
from psychocounsel.settings.typed.chat_keys import ChatConfig, check_chat, is_chat
from psychocounsel.settings.typed.evaluate_keys import leave_out_sections, make_files_absolute
from psychocounsel.storage.files import shipped

_SCHEMAS = {"train": TrainConfig, "audit": AuditConfig, "annotate": AnnotateConfig, "chat": ChatConfig}
_TARGETS = ("algo", "cluster", "tracker", "reward", "rollout", "speeches", "evaluation", "personas", *MODEL_GROUPS)

register_resolvers()
spare_work()


def compose(overrides: Sequence[str], name: str = "train") -> DictConfig:
    """Return `conf/<name>.yaml` composed with `overrides`. A process reads the files of each set of choices once.

    Raises:
        HydraException: for an override that cannot be parsed, or that names a missing file or key.
    """
    return _compositions(name).compose([quote_choice(override) for override in overrides])


@cache
def _compositions(name: str) -> Compositions:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped("conf").resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    return Compositions(loader, lambda choices: loader.load_configuration(name, choices, RunMode.RUN))


def command_of(config: DictConfig) -> str:
    """Return the command of a configuration: train, evaluate, audit, annotate or chat."""
    if "speeches" in config:
        return "annotate"
    if is_chat(config):
        return "chat"
    return "train" if "algo" in config else "audit" if "audit" in config else "evaluate"


def check(composed: DictConfig) -> DictConfig:
    """Return a command's composed configuration with types checked and interpolations resolved.

    Raises:
        UserError: for an unknown key, a wrong type or range, or a combination that cannot work.
    """
    add_code_path(composed.get("code_path") or [])
    plain = composed
    if "hydra" in composed:
        plain = OmegaConf.create({key: composed._get_node(key) for key in composed if key != "hydra"})
    require_paths(plain)
    if "algo" in plain:
        refuse_renamed(plain, target_class)
        _leave_out_unused(plain)
    if "audit" in plain or is_chat(plain):
        leave_out_reward(plain)
    if "evaluation" in plain:
        leave_out_sections(plain, target_class(plain, "evaluation"))
    config = _typed(plain, _schema_of(plain))
    check_entries(config, lambda entry: _typed(entry, NoKeys))
    check_rewards(config)
    plain_values: Any = OmegaConf.to_container(config)
    for key in SINGLE_LINES:
        refuse_control_characters(plain_values.get(key), key)
    check_models(config, lambda group, member: _typed(OmegaConf.create({group: member}), NoKeys)[group])
    if is_chat(config):
        check_reward_paths(config)
        check_chat(config)
    else:
        _check_jobs(config)
    make_paths_absolute(config)
    if "evaluation" in config:
        make_files_absolute(config)
    if "data" in config or is_chat(config):
        _name_by_path(config)
    settle_part(config)
    refuse_shipped_rewards(plain)  # last, because the messages on other mistakes are more specific
    return config


def _check_jobs(config: DictConfig) -> None:
    """Check the groups of commands that start jobs: a cluster, and data or speeches."""
    cluster = build(config, "cluster")
    cluster.check()
    if "speeches" in config:
        check_annotate(config)
    else:
        _check_what_reads_pairs(config, cluster)
    check_confidential(config)


def with_values(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Return a copy of a checked configuration with new values at dotted keys, checked for types and limits.

    Raises:
        UserError: for an unknown key, or a value that the key cannot have.
    """
    plain = OmegaConf.create(OmegaConf.to_container(config))
    assert isinstance(plain, DictConfig)
    for key, value in values.items():
        OmegaConf.update(plain, key, value)
    return _typed(plain, _schema_of(plain))


def _schema_of(plain: DictConfig) -> Any:
    command = command_of(plain)
    return target_class(plain, "evaluation").schema if command == "evaluate" else _SCHEMAS[command]


def _check_what_reads_pairs(config: DictConfig, cluster: Any) -> None:
    check_data(config)
    check_counterfactuals(config)
    if "algo" in config:
        algorithm = build(config, "algo")
        check_needs(algorithm)
        check_training_pairs(config, algorithm)
        check_length(config)
        check_combinations(config, cluster)
        check_guard(config, algorithm)
        algorithm.check_settings(config)
        check_held_out_replies(config, algorithm)
        check_checkpoint_metric(config)
        if algorithm.needs.rollouts:
            check_rollouts(config, algorithm)
        if "rollout" in config:
            build(config, "rollout").check(config, cluster.process_count())
        build(config, "tracker").check()
    else:
        check_reward_paths(config)
    if "audit" in config:
        check_against(config)


def _leave_out_unused(plain: DictConfig) -> None:
    """Drop the groups reward and rollout if neither the algorithm nor its evaluation uses them."""
    needs = target_class(plain, "algo").needs
    evaluated = str(OmegaConf.select(plain, "eval.replies")).lower() in ("true", "yes", "on", "1", "y")
    with open_dict(plain):
        for group, needed in (("reward", needs.reward), ("rollout", needs.rollouts)):
            if not needed and not evaluated:
                plain.pop(group, None)


def _typed(plain: DictConfig, fields: type) -> DictConfig:
    """Return `plain` with the types of the dataclass `fields` and of the dataclasses named by its groups, limits checked."""
    groups = [group for group in _TARGETS if group in plain]
    if OmegaConf.select(plain, "data._target_"):
        groups.append("data")  # the user's own data source reads the rows
    targets = {group: target_class(plain, group) for group in groups}
    names = tuple(plain[group]["_target_"] for group in targets)
    schema = _schema(fields, tuple(targets.items()), names)
    config = _merge(schema, plain)
    check_limits(fields, config)
    for group, target in targets.items():
        check_limits(target, config[group], f"{group}.")
    return config


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


def _check_sections(schema: DictConfig, plain: DictConfig, prefix: str = "") -> None:
    """Refuse a single value for a section with several settings; OmegaConf's own error does not name the key."""
    for key in map(str, schema):
        section, given = schema._get_node(key), plain._get_node(key, validate_access=False)
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
        config = merged(schema, plain, lambda: _check_sections(schema, plain))
        resolve(config)
    except ConfigKeyError as error:
        raise UserError(unknown_key(error.full_key or str(error), flat_keys(schema))) from error
    except (ValidationError, OmegaConfBaseException) as error:
        if missing := missing_key(error):
            raise UserError(f"{missing} is not set: add {missing}=VALUE") from error
        raise UserError(wrong_value(error)) from error
    return config


def _name_by_path(config: DictConfig) -> None:
    """Name a preset for shipped files, or for any path, after the path that the user gave."""
    generics = {"model": ("local", "tiny"), "reward": ("local", "tiny", "tiny_2"), "data": ("local", "sample")}
    sections = [(config[group], group) for group in ("model", "data") if group in config]
    sections += [(section, "reward") for _, section in reward_sections(config)]
    for section, generic in ((section, generics[group]) for section, group in sections):
        if section.get("name") in generic and section.get("path") and not section.path.startswith("builtin:"):
            path = Path(section.path)
            section.name = slug(path.stem if path.is_file() else telling_name(run_of_model(path) or path))
    name_rewards(config)


def resolve_mix(composed: DictConfig, load_group: Any) -> None:
    """Fill each `data.mix` entry given by `name` from `conf/data/<name>.yaml`, through `load_group(name)`.

    Names become paths here, because the worker does not compose.

    Raises:
        UserError: for an entry of another form, or for a preset that is not a file, folder or hub dataset.
    """
    mix = OmegaConf.select(composed, "data.mix") or []
    if (not OmegaConf.is_list(mix) and mix) or not all(OmegaConf.is_dict(entry) for entry in mix):
        raise UserError("data.mix: is a list of entries, for instance [{name: sample, rows: 100}]")
    for entry in mix:
        unknown = set(entry) - set(MixEntry.__dataclass_fields__)
        if unknown:
            word = sorted(unknown)[0]
            raise UserError(f"data.mix: {unknown_key(word, list(MixEntry.__dataclass_fields__))}")
        if not entry.get("path"):
            if not entry.get("name"):
                raise UserError("data.mix: each entry needs a name (a config of the data group) or a path")
            preset = load_group(entry["name"])
            if preset.get("_target_"):
                raise UserError(
                    f"data.mix: {entry['name']} reads its rows by {preset['_target_']}, and only files, folders and hub "
                    "datasets can be mixed; give the entry a path"
                )
            for key in ("path", "split", "revision", "license"):
                if preset.get(key) is not None:
                    entry[key] = preset[key]
