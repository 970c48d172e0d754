"""Errors of Hydra and OmegaConf in one line that says what to type."""

import re
import shlex
import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from psychocounsel.errors import UserError, words
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import command_named
from psychocounsel.settings.keys import bases_of, renamed, unknown_key
from psychocounsel.settings.names_elsewhere import our_choice
from psychocounsel.settings.overrides import config_dirs, joined_again, shell_word, with_quoted_texts
from psychocounsel.settings.schema import flat_keys, suggestion
from psychocounsel.storage.files import shipped

_WITH_PATH = ("model", "data", "reward")  # groups with the key `path`
_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".gz")
# Errors that a user's command line or files can cause, which `one_line` explains.
EXPECTED = (UserError, HydraException, OmegaConfBaseException, OSError, ValueError, yaml.YAMLError, RecursionError)


def one_line(error: Exception, arguments: Sequence[str], config_name: str = "train") -> str:
    """Return one line that explains `error`, which the command-line `arguments` caused."""
    return "".join(
        char if char.isprintable() else repr(char)[1:-1] for char in _explained(error, arguments, config_name)
    )


def _explained(error: Exception, arguments: Sequence[str], config_name: str) -> str:
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, OverrideParseException):
        key, equals, _ = error.override.partition("=")
        if not equals:
            return f"{key}: is not of the form KEY=VALUE"
        valid = _keys_for(arguments, config_name)
        if valid and key not in valid and not key.startswith(("+", "~", "hydra.")):
            return _unknown_override(key, arguments, config_name)
        if whole := joined_again(error.override, arguments):
            return f"{key}: the shell splits a value with spaces; put quotes around all of it: {shlex.quote(whole)}"
        if word := with_quoted_texts(error.override):
            return f"{key}: cannot be read; put quotes around texts with other signs than a to z: {word}"
        return f"{key}: cannot be read; put quotes around the value as well: {shell_word(error.override)}"
    if isinstance(error, yaml.YAMLError):
        return _bad_yaml(error)
    if isinstance(error, MissingConfigException):
        if match := re.search(r"(?:find|load) '([^']+)'", text):
            choices = re.findall(r"^\t(\S+)$", text.partition("Config search path")[0], re.M)
            return _unknown_choice(match.group(1), choices)
        if match := re.search(r"primary config '([^']+)'", text):
            return f"--config-name {match.group(1)}: no such configuration; choose train, evaluate, audit, annotate or chat"
    if isinstance(error, shutil.Error):  # of copytree: (source, destination, text of the error) of each file
        reason = str(error.args[0][0][2])
        return reason.partition("] ")[2] or reason
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else text
    if isinstance(error, RecursionError) and (file := _own_base(arguments)):
        return f"{file}: its `defaults` lead back to this file; leave it out there"
    return _of_hydra(error, arguments, config_name)


def _of_hydra(error: Exception, arguments: Sequence[str], config_name: str) -> str:
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        inner = re.search(r"full_key: (\S+)", text)
        return _unknown_override(inner.group(1) if inner else match.group(1), arguments, config_name)
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        if match.group(1).startswith("data.path="):
            return (
                f"{match.group(1)}: names one file or folder; for the rows of several, give "
                "'data.mix=[{path: FILE, rows: NUMBER}, ...]' or a folder that holds them, and for a run with each, add -m"
            )
        sweep = f"{match.group(1)}: add -m for a sweep over several values, or write one list as [value1,value2]"
        return f"{sweep}; for a text with commas type {shell_word(match.group(1))}" if " " in match.group(1) else sweep
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"+{match.group(1)}: exists already; write {match.group(1)}=VALUE"
    if isinstance(error, InterpolationResolutionError) and (given := [text for text in arguments if "${" in text]):
        return f"{given[0]}: {text.splitlines()[0]}"
    if match := re.search(r"Error merging override \+*(.*)", text):
        return f"{match.group(1)}: does not have the form of the value that it replaces"
    if (match := re.search(r"full_key: (\S+)", text)) and match.group(1) not in text.splitlines()[0]:
        return f"{match.group(1)}: {text.splitlines()[0]}"
    lines = [line.strip() for line in (text or str(error.__cause__)).splitlines() if line.strip()]
    summary = "; ".join(lines[:2])
    return summary if words(summary) == summary else f"{type(error).__name__} ({words(summary)})"


def _bad_yaml(error: yaml.YAMLError) -> str:
    """Return the file that is not valid YAML, and the line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}: is not YAML ({error.problem} in line {mark.line + 1})"
    return f"{getattr(error, 'name', 'a configuration')}: is not YAML ({str(error).splitlines()[0]})"


def _own_base(arguments: Sequence[str]) -> Path | None:
    """Return a file of --config-dir whose defaults name the file itself, directly or by other files of its group."""
    for file in (file for folder in config_dirs(arguments) for file in sorted(Path(folder).glob("*/*.yaml"))):
        ahead, reached = [file], set[Path]()
        while ahead:
            bases = {*bases_of(ahead.pop())} - reached
            reached |= bases
            ahead += bases
        if file in reached:
            return file
    return None


def _unknown_override(key: str, arguments: Sequence[str], config_name: str) -> str:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if message := renamed(key, given.get(key)):
        return message
    valid = _keys_for(arguments, config_name) or flat_keys(configs.compose([], config_name, config_dirs(arguments)))
    inner = [name for name in valid if name.startswith(f"{key}.")]
    place = given.get(key, "")
    if f"{key}.path" in inner and place:
        advice = f"leave {key}={place} out" if f"{key}.path" in given else f"give {key}.path={_path_of(key, place)}"
        return f"{key}={place}: {key} is a section of several settings; {advice}"
    if inner:
        return f"{key}: has no such entry; it has {', '.join(name.rpartition('.')[2] for name in inner)}"
    if key in ("callbacks", "model.template_args"):
        return f"{key}: is a dictionary; add an entry with +{key}.NAME=VALUE"
    return _new_entry(key, valid, arguments, config_name) or unknown_key(key, valid, config_name)


def _new_entry(key: str, valid: Sequence[str], arguments: Sequence[str], config_name: str) -> str | None:
    """Return what to type to add an entry to a dictionary; None if `key` is no such entry, or is a misspelt one."""
    try:
        command = command_named(config_name)
        place = configs.dictionary_above(command, _composed(arguments, config_name), key) if command else None
    except Exception:  # the choices are swept or wrong
        return None
    # a key with the name of a group, such as rollout.clients, takes a choice and no entries
    if place is None or (shipped("conf") / place.rpartition(".")[2]).is_dir():
        return None
    name = key.removeprefix(f"{place}.")
    entries = [other.removeprefix(f"{place}.") for other in valid if other.startswith(f"{place}.")]
    if get_close_matches(name, entries, 1, 0.75):
        return None
    entry = f"'{place}={{{name}: VALUE}}'" if "." in name else f"+{key}=VALUE"  # after +, a dot would begin a section
    return f"{key}: {place} is a dictionary; type {entry}"


def _path_of(group: str, name: str) -> str:
    """Return the path of a shipped choice, for commands in which the group has no choices; otherwise `name`.

    A choice whose path the user sets has FOLDER.
    """
    file = shipped("conf") / group / f"{name}.yaml"
    if not file.is_file():
        return name
    path = yaml.safe_load(file.read_text()).get("path")
    return "FOLDER" if path in (None, "???") else str(path)


def _keys_for(arguments: Sequence[str], config_name: str) -> list[str]:
    """Return the keys that the chosen groups have, or [] if the choices are swept or the user's own."""
    try:
        return flat_keys(_composed(arguments, config_name))
    except Exception:
        return []


def _composed(arguments: Sequence[str], config_name: str) -> DictConfig:
    """Return the configuration of the chosen groups, without other overrides."""
    groups = {path.name for path in shipped("conf").iterdir() if path.is_dir()}
    choices = [argument for argument in arguments if argument.partition("=")[0] in groups]
    return configs.compose(choices, config_name, config_dirs(arguments))


def _unknown_choice(path: str, options: Sequence[str]) -> str:
    group, _, name = path.rpartition("/")
    first, _, place = path.partition("/")
    if not (shipped("conf") / group).is_dir():  # a slash in the value
        group, name = first, place
    if first in _WITH_PATH and (re.search("[/:]", place) or place.endswith(_FILES) or Path(place).exists()):
        return f"{first}={place}: is no choice of the group {first}; for a file or folder give {first}.path={place}"
    if ours := our_choice(f"{group}={name}"):
        return f"{group}={name}: no such choice; give {ours}"
    if not options:
        return f"no such config: {path}"
    return f"{group}={name}: no such choice; {suggestion(name, list(options))} ({group} is one of {', '.join(options)})"
