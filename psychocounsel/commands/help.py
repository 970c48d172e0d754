"""Help while typing a command: the page of `--help`, and the words of TAB completion. YAML files are read, not composed."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

import yaml
from omegaconf import OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.storage.files import shipped
from psychocounsel.storage.yaml_limits import bounded

# Config groups of a command, from its YAML file.

_SWEPT = "train"  # the shipped sweeps vary its keys


def command_groups(command: str, folders: Sequence[Path]) -> list[str]:
    """Return a command's config groups, in the order of its defaults.

    The first folder with a file of the command's name decides. Without such a file the list is empty.
    """
    groups = [*command_choices(command, folders)]
    return [*groups, "sweep"] if command == _SWEPT else groups


def command_choices(command: str, folders: Sequence[Path]) -> dict[str, str | None]:
    """Return a command's config groups, each with the choice that is made without the user's."""
    return default_choices(read_yaml(_file_of(command, folders)))


def default_choices(content: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the groups in the defaults of a configuration, each with the choice that is made without the user's."""
    entries = [entry for entry in content.get("defaults") or [] if isinstance(entry, dict)]
    named = [(str(group), choice) for entry in entries for group, choice in entry.items()]
    return {group: choice for group, choice in named if not group.startswith("override ")}


def read_yaml(file: Path | None) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, or {} if the file is missing, malformed or holds something else."""
    try:
        content = yaml.safe_load(bounded(file.read_text(encoding="utf-8"))) if file else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def flat_keys(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a mapping from a YAML file."""
    for name, value in content.items():
        if name in ("defaults", "_target_"):
            continue
        if isinstance(value, dict) and value:
            yield from flat_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _file_of(command: str, folders: Sequence[Path]) -> Path | None:
    return next((path for folder in folders if (path := folder / f"{command}.yaml").is_file()), None)


# The page of `--help`. Hydra would make it too slowly: it copies its file index for every config group.

_ASKS = ("--help", "-h")


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Return True if a command line asks only for the help page."""
    return any(text in _ASKS for text in arguments)


def help_page(command: str, folders: Sequence[Path]) -> str:
    """Return the help page of `command`, with its groups and their choices in all `folders`; the last one is the shipped `conf`.

    A group that only a user's folder has is listed, too.
    """
    pages = folders[-1] / "hydra" / "help"
    file = next(page for page in (pages / f"{command}.yaml", pages / "psychocounsel.yaml") if page.is_file())
    composed = OmegaConf.create({"hydra": {"help": OmegaConf.load(file)}})
    choices: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            choices.setdefault(path.parent.name, set()).add(path.stem)
    shipped = {path.name for path in folders[-1].iterdir()}
    names = [*command_groups(command, folders), *sorted(choices.keys() - shipped)]
    lines = [f"{group}: {', '.join(sorted(choices[group]))}" for group in names if group in choices]
    return Template(composed.hydra.help.template).safe_substitute(
        APP_CONFIG_GROUPS="\n  ".join(lines) + "\n", EVALUATIONS="\n  ".join(_about_evaluations(folders))
    )


def _about_evaluations(folders: Sequence[Path]) -> list[str]:
    """Return a line for each choice of `evaluation`: its name, and the first comment of its file."""
    files = {file.stem: file for folder in reversed(folders) for file in (folder / "evaluation").glob("*.yaml")}
    width = max(map(len, files), default=0)
    return [f"evaluation={name:<{width}}  {_first_comment(files[name])}" for name in sorted(files)]


def _first_comment(file: Path) -> str:
    """Return the first comment of a configuration file, without the page in brackets."""
    lines = bounded(file.read_text(encoding="utf-8")).splitlines()
    first = next((text[1:].strip() for text in lines if text.startswith("#") and "@package" not in text), "")
    return re.sub(r" \(docs/\S+\)", "", first)


# TAB completion of commands, config groups, choices and keys.

_PLAIN = re.compile(r"[\w.@/=-]+")  # the shell may execute completed text, and someone else may own the folder `conf`
_SCRIPT = """\
_psychocounsel() {
    local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
    COMP_WORDBREAKS="${COMP_WORDBREAKS//=/}"
    word="${word##* }"
    local candidate
    COMPREPLY=()
    while read -r candidate; do
        [[ $candidate == "$word"* ]] && COMPREPLY+=("$candidate")
    done < <(psychocounsel complete "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$word" 2>/dev/null)
    [[ ${COMPREPLY[0]:-} == *= ]] && compopt -o nospace
}
complete -o default -F _psychocounsel psychocounsel
"""
_CONFIGURATIONS = {"prepare": "train"}
_HIDDEN = {"paths"}  # its single choice is the default
_SHELLS = {"bash": _SCRIPT, "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_SCRIPT}"}


def shell_script(arguments: Sequence[str]) -> str:
    """Return the script that `eval "$(psychocounsel completion bash)"` evaluates.

    Raises:
        UserError: for another shell; lists the supported ones.
    """
    if len(arguments) != 1 or arguments[0] not in _SHELLS:
        raise UserError(f"psychocounsel completion {' or '.join(_SHELLS)}")
    return _SHELLS[arguments[0]]


def complete(arguments: Sequence[str], commands: Sequence[str]) -> list[str]:
    """Return the completions of the last of `arguments`: the words so far, then the unfinished one.

    A command without a configuration may have a function `completions(before, word)` of its own.
    """
    *before, word = arguments or [""]
    if not before or before[0] not in commands:
        return [*commands]
    folders = [shipped("conf"), *([Path("conf")] if Path("conf").is_dir() else [])]
    command = _CONFIGURATIONS.get(before[0], before[0])
    group, is_choice, _ = word.partition("=")
    if _file_of(command, folders) is None:
        own = getattr(import_module(f"psychocounsel.{command}"), "completions", None)
        words = own(before[1:], word) if own else []
    else:
        words = [f"{group}={name}" for name in _choices(folders, group)] if is_choice else _names(folders, command)
    return [text for text in words if _PLAIN.fullmatch(text)]


def _names(folders: Sequence[Path], command: str) -> list[str]:
    """Return the groups and keys of a command, each with `=`."""
    names = {*command_groups(command, folders), *_keys(folders, command)}
    return sorted(f"{name}=" for name in names - _HIDDEN)


def _choices(folders: Sequence[Path], group: str) -> list[str]:
    return sorted({file.stem for folder in folders for file in (folder / os.path.basename(group)).glob("*.yaml")})


def _keys(folders: Sequence[Path], command: str) -> Iterator[str]:
    """Yield the dotted keys of a command: those of its YAML file, and of the default choice of each group."""
    for folder in folders:
        content = read_yaml(folder / f"{command}.yaml")
        yield from flat_keys({name: value for name, value in content.items() if name != "hydra"})
        for group, choice in default_choices(content).items():
            if choice is not None:
                yield from flat_keys({group: read_yaml(folder / group / f"{choice}.yaml")})
