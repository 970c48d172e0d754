"""Errors for unknown keys, renamed keys, wrong values and values of several lines, with the advice what to type instead."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.errors import UserError
from psychocounsel.settings.names_elsewhere import our_names
from psychocounsel.settings.schema import suggestion
from psychocounsel.storage.files import shipped

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Old key: new key. The old key is refused, unless a user's own dataclass has it.
RENAMED = {
    "algo.temperature": "rollout.temperature",
    "rollout.samples": "rollout.shown_prompts",
    "rollout.overlap": "rollout.max_staleness",
    "data.system_prompt": "model.system_prompt, and reward.system_prompt for a reward model",
    "data.swapped": "data.controls=[other_client] with data.control_rate",
}


def renamed(key: str, value: object) -> str | None:
    """Return one line that names the new key, or None if the key was not renamed."""
    written = key if value is None else f"{key}={value}"
    return f"{written}: was renamed to {RENAMED[key]}" if key in RENAMED else None


def unknown_key(key: str, valid: Sequence[str], config_name: str | None = None) -> str:
    """Return one line that names the choices of the group that have the key, or the nearest of the `valid` keys.

    `config_name`: the command's configuration; only its groups have choices (None: all groups have).
    """
    names = our_names(key)
    if ours := next((name for name in names if name in valid), None):
        return f"unknown key {key}: here it is called {ours}"
    for known in (*names, key):
        group, _, name = known.partition(".")
        files = (shipped("conf") / group).glob("*.yaml")
        choices = sorted(file.stem for file in files if name in _keys_of(file))
        if choices and (config_name is None or group in _groups_of(config_name)):
            has = "has it" if known == key else f"has {known}"
            return f"unknown key {key}: {group}={'|'.join(choices)} {has}, but the chosen one does not"
    return f"unknown key {key}: {suggestion(key, list(valid))}"


def _groups_of(config_name: str) -> set[str]:
    content = yaml.safe_load((shipped("conf") / f"{config_name}.yaml").read_text())
    return {group for entry in content["defaults"] if isinstance(entry, dict) for group in entry}


def _keys_of(file: Path) -> set[str]:
    """Return the keys of a choice's file and of its defaults in the same folder."""
    content = yaml.safe_load(file.read_text()) or {}
    return set(content).union(*map(_keys_of, bases_of(file))) - {"defaults", "_target_"}


def bases_of(file: Path) -> list[Path]:
    """Return the files of the same folder that the defaults of a choice's file name; none if it cannot be read."""
    try:
        defaults = yaml.safe_load(file.read_text())["defaults"]
        named = [base for base in defaults if isinstance(base, str) and "/" not in base and base != "_self_"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return []
    return [file.with_name(f"{base}.yaml") for base in named]


def refuse_renamed(plain: DictConfig, target_class: Callable[[DictConfig, str], Any]) -> None:
    """Refuse renamed keys in a composed configuration; `target_class` returns the dataclass of a group.

    Raises:
        UserError: naming the new key.
    """
    for key in RENAMED:
        group, _, name = key.partition(".")
        if name in (plain.get(group) or {}):
            refuse_unknown(group, {name: OmegaConf.select(plain, key)}, target_class(plain, group))


def refuse_unknown(group: str, values: dict[str, Any], target: Any) -> None:
    """Refuse values without a field in the group's dataclass `target`, for instance from an older run directory.

    Raises:
        UserError: naming the key and what to type instead.
    """
    fields = [f"{group}.{item.name}" for item in dataclasses.fields(target)]
    for name, value in values.items():
        key = f"{group}.{name}"
        if key not in fields:
            raise UserError(renamed(key, value) or unknown_key(key, fields))


def missing_key(error: Any) -> str | None:
    """Return the mandatory key that OmegaConf's error reports as not set, also if another value refers to it; otherwise None."""
    message = str(error)
    if match := re.search(r"Missing mandatory value: (\S+)", message):
        return match[1]
    made_of = re.search(r"interpolation '\$\{\.(\w+)\}': Incompatible value 'None'", message)
    return f"{str(error.full_key).rpartition('.')[0]}.{made_of[1]}" if made_of else None


# Settings whose texts become lines of batch scripts or of file lists.
SINGLE_LINES = ("cluster", "paths", "run_dir", "sweep_dir", "after", "code_path")


def refuse_control_characters(value: object, key: str) -> None:
    """Refuse a text with a newline or another control character; mappings and lists are searched too.

    Raises:
        UserError: naming the key.
    """
    if isinstance(value, str):
        if _CONTROL.search(value):
            raise UserError(
                f"{key}: contains a newline or another control character: write it on one line, or as a list of lines"
            )
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            shown = _CONTROL.sub("?", str(name))
            if shown != str(name):
                raise UserError(f"{key}.{shown}: the name contains a newline or another control character")
            refuse_control_characters(inner, f"{key}.{name}")
    elif isinstance(value, Sequence):
        for index, inner in enumerate(value):
            refuse_control_characters(inner, f"{key}[{index}]")


def refuse_lines_in_overrides(arguments: Sequence[str]) -> None:
    """Refuse command-line arguments with newlines, because run directories store one argument per line.

    Raises:
        UserError: naming the key.
    """
    for argument in arguments:
        if _CONTROL.search(argument):
            key = _CONTROL.sub("?", argument.partition("=")[0])
            raise UserError(
                f"{key}: contains a newline or another control character: write it on one line (a text of several lines can "
                "be put in a YAML file of --config-dir)"
            )


# Messages on values of a wrong type, in the user's words instead of OmegaConf's.

_FORMS = {
    "is not a ListConfig, list or tuple": ": is a list, written [VALUE,VALUE]",
    "to Dict[str,": ": is a dictionary, written {NAME: VALUE}",
    "' to string": ": is a text; a text in brackets or braces needs quotes of its own, as \"KEY='[VALUE]'\"",
    "Incompatible value 'None'": ": cannot be null; give a value, or leave it out",
}
_TYPED = re.compile(
    r"Value '(?P<value>.*)' (of type '\w+' could not be converted to (?P<type>Integer|Float)$|is not a valid bool)"
)
_TYPES = {"Integer": "a whole number", "Float": "a number", None: "true or false"}


def wrong_value(error: OmegaConfBaseException) -> str:
    """Return the key and what its value must be: `seed=1.5: must be a whole number`."""
    message = str(error).splitlines()[0]
    if match := _TYPED.match(message):
        return f"{error.full_key}={match['value']}: must be {_TYPES[match['type']]}"
    return f"{error.full_key}{next((words for form, words in _FORMS.items() if form in message), f': {message}')}"
