"""Composing, checking and comparing configurations, without torch. Every refusal is one line that says what to type."""

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from psychocounsel.errors import UserError
from psychocounsel.files import shipped
from psychocounsel.schema import MixEntry, TrainConfig, check_limits, flat_keys, suggestion

_TARGETS = ("algo", "cluster", "tracker")

# What may differ when a run directory is used again; everything else defines the run.
_MAY_DIFFER = ("cluster", "tracker", "paths", "engine", "callbacks", "run_dir", "sweep_dir", "dry_run", "code_path")
_MAY_DIFFER_KEYS = ("checkpoint.every", "checkpoint.keep_last", "eval.every")
_MAY_GROW = ("max_steps", "epochs")


def _if_tiny(tiny: Any, other: Any, *, _root_: DictConfig) -> Any:
    return tiny if _root_.model.path == "builtin:tiny" else other


def _or_new_sweep(sweep_dir: str | None, output: str) -> str:
    return sweep_dir or str(new_directory(output, "sweep"))


OmegaConf.register_new_resolver("if_tiny", _if_tiny, replace=True)
OmegaConf.register_new_resolver("or_new_sweep", _or_new_sweep, replace=True, use_cache=True)


def compose(overrides: Sequence[str], config_dir: Path | None = None, name: str = "train") -> DictConfig:
    """Compose `conf/<name>.yaml` with `overrides`; `config_dir` is the user's own directory, searched as well."""
    GlobalHydra.instance().clear()
    extra = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    with initialize_config_dir(str(shipped("conf").resolve()), version_base="1.3"):
        return hydra_compose(name, [*map(quote_choice, overrides), *extra])


def quote_choice(override: str) -> str:
    """Hydra takes `zero=3` for the number 3, which is no name of a choice: quote it."""
    group, _, choices = override.partition("=")
    if group.lstrip("+") != "zero":
        return override
    return f"{group}=" + ",".join(f"'{choice}'" if choice.isdigit() else choice for choice in choices.split(","))


def check(composed: DictConfig) -> DictConfig:
    """Return the composed configuration with types applied and interpolations resolved.

    Raises:
        UserError: for an unknown key, a wrong type or range, or a combination that cannot work.
    """
    for folder in composed.get("code_path") or []:
        if folder not in sys.path:
            sys.path.append(folder)
    plain = OmegaConf.create({key: composed._get_node(key) for key in composed if key != "hydra"})
    _require_path_dirs(plain)
    targets = {group: target_class(plain, group) for group in _TARGETS}
    schema = OmegaConf.structured(TrainConfig)
    with open_dict(schema):
        for group, target in targets.items():
            schema[group] = OmegaConf.structured(target)
            schema[group]._set_flag("struct", False)
            schema[group]["_target_"] = plain[group]["_target_"]
            schema[group]._set_flag("struct", True)
    config = _merge(schema, plain)
    check_limits(TrainConfig, config)
    for group, target in targets.items():
        check_limits(target, config[group], f"{group}.")
    _check_combinations(config)
    _make_paths_absolute(config)
    return config


def target_class(config: DictConfig, group: str) -> type:
    """Import the dataclass that `<group>._target_` names."""
    from hydra.utils import get_class

    name = OmegaConf.select(config, f"{group}._target_")
    if not name:
        raise UserError(f"{group} has no _target_: its YAML must name the dataclass that implements it")
    try:
        return get_class(name)
    except Exception as error:
        cause = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise UserError(
            f"{group}._target_={name}: cannot be imported ({cause}); "
            "put its file beside the folder given by --config-dir, or in it"
        ) from error


def build(config: DictConfig, group: str) -> Any:
    """Make the object of a checked group: its dataclass, with its fields as attributes."""
    values = {key: value for key, value in config[group].items() if key != "_target_"}
    plain = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in values.items()}
    return target_class(config, group)(**plain)


def _merge(schema: DictConfig, plain: DictConfig) -> DictConfig:
    try:
        config = OmegaConf.merge(schema, plain)
        OmegaConf.resolve(config)
    except ConfigKeyError as error:
        raise UserError(unknown_key(error.full_key or str(error), flat_keys(schema))) from error
    except (ValidationError, OmegaConfBaseException) as error:
        if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
            raise UserError(f"{missing.group(1)} is not set: add {missing.group(1)}=VALUE") from error
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, DictConfig)
    return config


def unknown_key(key: str, valid: list[str]) -> str:
    return f"unknown key {key}: {suggestion(key, valid)}"


def _require_path_dirs(config: DictConfig) -> None:
    for key in ("output", "cache"):
        if not str(OmegaConf.select(config, f"paths.{key}") or ""):
            raise UserError(f"paths.{key} is empty: give a folder, or unset PSYCHOCOUNSEL_{key.upper()}")


def _check_combinations(config: DictConfig) -> None:
    if config.zero.offload_optimizer or config.zero.offload_parameters:
        if not build(config, "cluster").gpus():
            raise UserError("zero.offload_*=true moves state from GPU to CPU, and there is no GPU here: use zero=0..3")
        if config.zero.offload_parameters and config.zero.stage != 3:
            raise UserError(f"zero.offload_parameters=true needs zero.stage=3, not {config.zero.stage}")
        if config.zero.stage == 0:
            raise UserError("zero.offload_optimizer=true needs zero.stage of 1 to 3, not 0")
    if config.micro_batch_tokens < config.max_length:
        raise UserError(
            f"micro_batch_tokens={config.micro_batch_tokens} is smaller than max_length={config.max_length}: "
            f"a sequence must fit; use micro_batch_tokens={config.max_length} or more"
        )
    if config.max_prompt_length and config.max_prompt_length >= config.max_length:
        raise UserError(
            f"max_prompt_length={config.max_prompt_length} must be less than max_length={config.max_length}"
        )
    if config.data.limit and config.data.fraction:
        raise UserError("data.limit and data.fraction exclude each other: keep one")
    _check_data(config)
    _check_callbacks(config)
    _check_local_path(config.model.path, "model.path", folder=True)
    if config.model.chat_template:
        _check_local_path(config.model.chat_template, "model.chat_template", must_exist=True)


def _check_callbacks(config: DictConfig) -> None:
    for name, callback in config.callbacks.items():
        target = callback.get("_target_") if OmegaConf.is_dict(callback) else None
        if not target:
            raise UserError(f"callbacks.{name}: needs a _target_, for instance {{_target_: my_module.MyCallback}}")
        try:
            found = importlib.util.find_spec(target.rpartition(".")[0])
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise UserError(f"callbacks.{name}._target_={target}: there is no such module")


def _check_data(config: DictConfig) -> None:
    from psychocounsel.counsel.principles import PRINCIPLES

    data = config.data
    for name, weight in data.principle_weights.items():
        if name not in PRINCIPLES:
            raise UserError(f"data.principle_weights.{name}: no such principle; {suggestion(name, list(PRINCIPLES))}")
        if weight < 0:
            raise UserError(f"data.principle_weights.{name}={weight}: must be at least 0")
    if data.principle_weights and not any(data.principle_weights.values()):
        raise UserError("data.principle_weights are all 0: give at least one principle a weight")
    if not data.mix and not data.path:
        raise UserError("data.path is not set: add data.path=FILE_OR_FOLDER, or choose data=sample")
    for index, entry in enumerate(data.mix):
        if bool(entry.rows) == bool(entry.weight):
            raise UserError(f"data.mix[{index}]: give either rows or weight, for instance {{name: sample, rows: 100}}")
        _check_local_path(entry.path, f"data.mix[{index}].path")
    if len({bool(entry.weight) for entry in data.mix}) > 1:
        raise UserError("data.mix: give rows for every entry or weight for every entry, not both kinds")
    for key in ("path", "eval_path"):
        _check_local_path(data[key], f"data.{key}")


_LOOKS_LOCAL = re.compile(r"^[./~]|\.(jsonl?|parquet|jinja)$")


def _check_local_path(value: str | None, key: str, folder: bool = False, must_exist: bool = False) -> None:
    """A value that looks like a local path must exist; `org/name` that does not exist here is taken for a hub id."""
    if not value or value.startswith("builtin:"):
        return
    path = Path(value).expanduser()
    if not path.exists() and (must_exist or _LOOKS_LOCAL.search(value) or value.count("/") != 1):
        raise UserError(f"{key}={value}: no such file or folder (a hub id has the form ORG/NAME)")
    if folder and path.is_file():
        raise UserError(f"{key}={value}: is a file; give the folder that holds config.json")
    if folder and path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"{key}={value}: the folder holds no config.json, so it is not a model")


def _make_paths_absolute(config: DictConfig) -> None:
    """Jobs may start in another directory: what exists here is recorded by its absolute path."""
    for node, key in [
        (config.model, "path"),
        (config.model, "chat_template"),
        (config.data, "path"),
        (config.data, "eval_path"),
        *((entry, "path") for entry in config.data.mix),
    ]:
        value = node[key]
        if value and not value.startswith("builtin:") and Path(value).expanduser().exists():
            node[key] = str(Path(value).expanduser().resolve())
    for key in ("output", "cache"):
        config.paths[key] = os.path.abspath(os.path.expanduser(config.paths[key]))
    for key in ("run_dir", "sweep_dir"):
        if config[key]:
            config[key] = os.path.abspath(os.path.expanduser(config[key]))


def resolve_mix(composed: DictConfig, load_group: Any) -> None:
    """Fill each `data.mix` entry given by `name` from `conf/data/<name>.yaml`, through `load_group(name)`.

    The worker never composes, so names become paths here.
    """
    for entry in OmegaConf.select(composed, "data.mix") or []:
        unknown = set(entry) - set(MixEntry.__dataclass_fields__)
        if unknown:
            word = sorted(unknown)[0]
            raise UserError(f"data.mix: {unknown_key(word, list(MixEntry.__dataclass_fields__))}")
        if not entry.get("path"):
            if not entry.get("name"):
                raise UserError("data.mix: each entry needs a name (a config of the data group) or a path")
            preset = load_group(entry["name"])
            for key in ("path", "split", "revision"):
                if preset.get(key) is not None:
                    entry[key] = preset[key]


def identity(config: DictConfig) -> dict[str, Any]:
    """The flat keys that define a run: two configurations with equal identity give the same training."""
    flat: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else key)
        else:
            flat[prefix] = node

    walk(OmegaConf.to_container(config), "")
    return {
        key: value
        for key, value in sorted(flat.items())
        if key.split(".")[0] not in _MAY_DIFFER and key not in _MAY_DIFFER_KEYS and key not in _MAY_GROW
    }


def fingerprint(config: DictConfig, **more: Any) -> str:
    """sha256 of a run's identity, its length and `more` (data and weight fingerprints)."""
    content = {**identity(config), **{key: config[key] for key in _MAY_GROW}, **more}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_same_run(config: DictConfig, existing: DictConfig, run_dir: Path) -> None:
    """Refuse a run directory that belongs to another configuration.

    Raises:
        UserError: naming the keys that differ, with both values of the first.
    """
    new, old = identity(config), identity(existing)
    differing = sorted(key for key in new.keys() | old.keys() if new.get(key) != old.get(key))
    if differing:
        first = differing[0]
        shown = ", ".join(differing[:6]) + (f" and {len(differing) - 6} more" if len(differing) > 6 else "")
        raise UserError(
            f"{run_dir} belongs to a run with another {shown} ({first} was {old.get(first)}, now {new.get(first)}): "
            "use another run_dir, or the same values"
        )
    for key in _MAY_GROW:
        before, now = existing[key], config[key]
        if before is not None and (now is not None and now < before):
            raise UserError(f"{run_dir} was started with {key}={before}: {key} may grow but not shrink to {now}")


def slug(text: str, limit: int = 80) -> str:
    """`text` as a file name of [A-Za-z0-9._-] (Hydra cannot parse `=` or `,` in a path); a hash marks what was cut."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "run"
    if len(clean) > limit:
        clean = clean[: limit - 9] + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return clean


def new_directory(output: str, *names: str) -> Path:
    """A new name under `output`: `names` and the time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return Path(os.path.abspath(os.path.expanduser(output))) / slug("-".join([*names, stamp]))


def run_name(overrides: Sequence[str]) -> str:
    """The folder of a sweep's job: its overrides, without those that do not define the run."""
    telling = [text for text in overrides if text.lstrip("+~").partition("=")[0].split(".")[0] not in _MAY_DIFFER]
    return slug("_".join(telling) or "default")
