"""Named sweeps: `sweep=NAME` reads `conf/sweep/NAME.yaml`, lists of values that are crossed or paired."""

import re
from collections.abc import Sequence
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.errors import UserError
from psychocounsel.rundir.sweep import key_of
from psychocounsel.settings.overrides import quoted
from psychocounsel.settings.schema import suggestion
from psychocounsel.storage.yaml_limits import bounded

Row = list[str]  # overrides that belong together


def take_sweep(arguments: Sequence[str], conf_folders: Sequence[Path]) -> tuple[list[str], list[Row]]:
    """Replace `sweep=NAME` in a command line by -m and the crossed values; return the new arguments and the paired rows.

    `cross` lists are written in Hydra's syntax (KEY=A,B); the command line overrides a key's values.
    `pair` lists have equal lengths and are combined element by element; the launcher runs every combination with each row.

    Raises:
        UserError: if the sweep does not exist, or its file has another form.
    """
    names = [text.partition("=")[2] for text in arguments if text.startswith("sweep=")]
    rest = [text for text in arguments if not text.startswith("sweep=")]
    if not names:
        return rest, [[]]
    if len(names) > 1 or "," in names[0]:
        raise UserError("sweep= names one file of conf/sweep; run the others by separate commands")
    path, content = _load(names[0], conf_folders)
    given = {key_of(text): text for text in rest}
    cross, pair = content.get("cross", {}), content.get("pair", {})
    if taken := sorted(given.keys() & set(map(key_of, pair))):
        raise UserError(f"{taken[0]}: sweep={names[0]} sets it in rows with other keys ({path}); leave it out")
    # Runs are named by their overrides, so a key keeps its position wherever its values come from.
    crossed = [given.get(key_of(key), f"{key}={','.join(map(written, values))}") for key, values in cross.items()]
    lists = [[f"{key}={written(value)}" for value in values] for key, values in pair.items()]
    flag = [] if "-m" in rest or "--multirun" in rest else ["-m"]
    others = [text for text in rest if key_of(text) not in set(map(key_of, cross))]
    return [*flag, *others, *crossed], [list(row) for row in zip(*lists, strict=True)] or [[]]


def with_rows(combinations: Sequence[Sequence[str]], rows: Sequence[Row]) -> list[Row]:
    """Return every combination of overrides joined with every row of paired ones."""
    return [[*combination, *row] for combination, row in product(combinations, rows)]


def _load(name: str, conf_folders: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    files = {file.stem: file for folder in reversed(conf_folders) for file in sorted((folder / "sweep").glob("*.yaml"))}
    if name not in files:
        available = ", ".join(sorted(files))
        raise UserError(f"sweep={name}: no such choice; {suggestion(name, list(files))} (sweep is one of {available})")
    path = files[name]
    content: Any = read_yaml(path)
    if not isinstance(content, dict) or not content or set(content) - {"cross", "pair"}:
        raise UserError(f"{path}: must contain cross: and pair:, each with KEY: [VALUES]")
    for part, lists in content.items():
        if (
            not isinstance(lists, dict)
            or not lists
            or not all(isinstance(values, list) and values for values in lists.values())
        ):
            raise UserError(f"{path}: {part}: must contain KEY: [VALUES], a list of values for every key")
    if len({len(values) for values in content.get("pair", {}).values()}) > 1:
        counts = ", ".join(f"{key} has {len(values)}" for key, values in content["pair"].items())
        raise UserError(f"{path}: the lists of pair must have equal lengths: {counts}")
    if both := set(map(key_of, content.get("cross", {}))) & set(map(key_of, content.get("pair", {}))):
        raise UserError(f"{path}: {sorted(both)[0]} is in both cross and pair")
    return path, content


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file, read like other configurations: 1e-6 is a number, duplicate keys are refused.

    Raises:
        UserError: if the file cannot be read, or is not YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(StringIO(bounded(path.read_text(encoding="utf-8")))))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}: is not YAML ({error.problem}{line})") from error
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def written(value: Any) -> str:
    """Return a value in the syntax of Hydra's command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    return quoted(value) if isinstance(value, str) and not _is_plain(value) else str(value)


def _is_plain(text: str) -> bool:
    """Return True if Hydra reads the text as itself, not as a number, a truth value, null or syntax."""
    try:
        float(text)
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9_./-]+", text)) and text.lower() not in ("null", "true", "false")
    return False
