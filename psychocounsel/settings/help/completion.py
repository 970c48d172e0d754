"""Words for the shell's TAB completion: commands, config groups, choices and keys. Reads YAML files and composes nothing."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from psychocounsel.settings.help.command_groups import command_groups, default_choices, flat_keys, read_yaml
from psychocounsel.storage.files import shipped

_PLAIN = re.compile(r"[\w.@/=-]+")  # the shell may execute completed text, and someone else may own the folder `conf`
_SCRIPT = """\
_psychocounsel() {
    local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
    COMP_WORDBREAKS="${COMP_WORDBREAKS//=/}"
    word="${word##* }"
    local each
    COMPREPLY=()
    while read -r each; do
        [[ $each == "$word"* ]] && COMPREPLY+=("$each")
    done < <(psychocounsel complete "${COMP_WORDS[1]:-}" "$word" 2>/dev/null)
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
        SystemExit: for another shell, with a line that lists the supported shells.
    """
    if len(arguments) != 1 or arguments[0] not in _SHELLS:
        raise SystemExit(f"error: psychocounsel completion {' or '.join(_SHELLS)}")
    return _SHELLS[arguments[0]]


def complete(arguments: Sequence[str], commands: Sequence[str]) -> list[str]:
    """Return the completions of the last of `arguments` (the command so far, then the unfinished word)."""
    command, word = (*arguments, "", "")[:2]
    if command not in commands:
        return [*commands]
    folders = [shipped("conf"), *([Path("conf")] if Path("conf").is_dir() else [])]
    group, is_choice, _ = word.partition("=")
    found = [f"{group}={name}" for name in _choices(folders, group)] if is_choice else _names(folders, command)
    return [each for each in found if _PLAIN.fullmatch(each)]


def _names(folders: Sequence[Path], command: str) -> list[str]:
    """Return the groups and keys of a command, each with `=`."""
    configuration = _CONFIGURATIONS.get(command, command)
    found = {*command_groups(configuration, folders), *_keys(folders, configuration)}
    return sorted(f"{name}=" for name in found - _HIDDEN)


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
