"""Words for the shell's TAB completion: commands, config groups, choices and keys. Reads YAML files and composes nothing."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

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
    found = (
        [f"{group}={name}" for name in _choices(folders, group)]
        if is_choice
        else sorted({*(f"{name}=" for name in _groups(folders)), *(f"{key}=" for key in _keys(folders, command))})
    )
    return [each for each in found if _PLAIN.fullmatch(each)]


def _groups(folders: Sequence[Path]) -> Iterator[str]:
    hidden = ("hydra", "paths", "shared")
    yield from (
        each.name for folder in folders for each in folder.iterdir() if each.is_dir() and each.name not in hidden
    )


def _choices(folders: Sequence[Path], group: str) -> list[str]:
    return sorted({file.stem for folder in folders for file in (folder / os.path.basename(group)).glob("*.yaml")})


def _keys(folders: Sequence[Path], command: str) -> Iterator[str]:
    """Yield the dotted keys of a command: those of its YAML file, and of the default choice of each group."""
    for folder in folders:
        content = _read(folder / f"{command}.yaml")
        yield from _flat({name: value for name, value in content.items() if name not in ("defaults", "hydra")})
        for entry in content.get("defaults") or []:
            if isinstance(entry, dict):
                for group, choice in entry.items():
                    if not str(group).startswith("override") and isinstance(choice, str):
                        yield from _flat({group: _read(folder / group / f"{choice}.yaml")})


def _flat(content: Any, prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        if name in ("defaults", "_target_"):
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
