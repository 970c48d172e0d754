"""Config groups of a command, read from its YAML file: `--help` and TAB completion list them without composing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_SWEPT = "train"  # the shipped sweeps vary its keys


def command_groups(command: str, folders: Sequence[Path]) -> list[str]:
    """Return a command's config groups, in the order of its defaults.

    The first folder with a file of the command's name decides. Without such a file the list is empty.
    """
    groups = [*default_choices(read_yaml(_file_of(command, folders)))]
    return [*groups, "sweep"] if command == _SWEPT else groups


def default_choices(content: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the groups in the defaults of a configuration, each with the choice that is made without the user's."""
    entries = [entry for entry in content.get("defaults") or [] if isinstance(entry, dict)]
    named = [(str(group), choice) for entry in entries for group, choice in entry.items()]
    return {group: choice for group, choice in named if not group.startswith("override ")}


def read_yaml(file: Path | None) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, or {} if the file is missing, malformed or holds something else."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, yaml.YAMLError):
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
