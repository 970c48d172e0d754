"""`sweep=NAME`: a sweep kept in `conf/sweep/NAME.yaml`, as lists of values that are crossed or go together."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.errors import UserError
from psychocounsel.settings.schema import suggestion

Row = list[str]  # overrides that go together


def take_sweep(arguments: Sequence[str], conf_folders: Sequence[Path]) -> tuple[list[str], list[Row]]:
    """Replace `sweep=NAME` in a command line by -m and its crossed values; returns that, and the paired rows.

    `cross` lists are written as Hydra sweeps them (KEY=A,B); of a key that the command line gives itself, its values count.
    `pair` lists have one length, and their values go together; the launcher runs every combination with each row.

    Raises:
        UserError: if there is no such sweep, or its file is not of this form.
    """
    names = [text.partition("=")[2] for text in arguments if text.startswith("sweep=")]
    rest = [text for text in arguments if not text.startswith("sweep=")]
    if not names:
        return rest, [[]]
    if len(names) > 1 or "," in names[0]:
        raise UserError("sweep= names one file of conf/sweep; run the others by commands of their own")
    path, content = _load(names[0], conf_folders)
    given = {_key(text): text for text in rest}
    cross, pair = content.get("cross", {}), content.get("pair", {})
    if taken := sorted(given.keys() & set(map(_key, pair))):
        raise UserError(f"{taken[0]}: sweep={names[0]} sets it in rows with other keys ({path}); leave it out")
    # Runs are named by their overrides, so a key keeps its place wherever its values come from.
    crossed = [given.get(_key(key), f"{key}={','.join(map(written, values))}") for key, values in cross.items()]
    lists = [[f"{key}={written(value)}" for value in values] for key, values in pair.items()]
    flag = [] if "-m" in rest or "--multirun" in rest else ["-m"]
    others = [text for text in rest if _key(text) not in set(map(_key, cross))]
    return [*flag, *others, *crossed], [list(row) for row in zip(*lists, strict=True)] or [[]]


def with_rows(combinations: Sequence[Sequence[str]], rows: Sequence[Row]) -> list[Row]:
    """Every combination of overrides with every row of paired ones."""
    return [[*combination, *row] for combination, row in product(combinations, rows)]


def _key(override: str) -> str:
    """The key of an override, or of a list, that may be one to add (+KEY)."""
    return override.lstrip("+~").partition("=")[0]


def _load(name: str, conf_folders: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    files = {file.stem: file for folder in reversed(conf_folders) for file in sorted((folder / "sweep").glob("*.yaml"))}
    if name not in files:
        available = ", ".join(sorted(files))
        raise UserError(f"sweep={name}: no such choice; {suggestion(name, list(files))} (sweep is one of {available})")
    path = files[name]
    content: Any = read_yaml(path)
    if not isinstance(content, dict) or not content or set(content) - {"cross", "pair"}:
        raise UserError(f"{path}: holds cross: and pair:, each with KEY: [VALUES]")
    for part, lists in content.items():
        if (
            not isinstance(lists, dict)
            or not lists
            or not all(isinstance(each, list) and each for each in lists.values())
        ):
            raise UserError(f"{path}: {part}: holds KEY: [VALUES], and every key needs a list of values")
    if len({len(values) for values in content.get("pair", {}).values()}) > 1:
        counts = ", ".join(f"{key} has {len(values)}" for key, values in content["pair"].items())
        raise UserError(f"{path}: the lists of pair go together and need one length: {counts}")
    if both := set(map(_key, content.get("cross", {}))) & set(map(_key, content.get("pair", {}))):
        raise UserError(f"{path}: {sorted(both)[0]} stands in cross and in pair")
    return path, content


def read_yaml(path: Path) -> Any:
    """What the file holds, read as the other configurations are: 1e-6 is a number, and no key stands twice."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}: is not YAML ({error.problem}{line})") from error
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def written(value: Any) -> str:
    """A value in the grammar of Hydra's command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, str) and not _is_plain(value):
        # Backslashes are taken as they are, but before a quote.
        escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), value)
        return f"'{escaped}'"
    return str(value)


def _is_plain(text: str) -> bool:
    """Whether Hydra reads the text as itself: not as a number, a truth value, null, or with a meaning of its own."""
    try:
        float(text)
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9_./-]+", text)) and text.lower() not in ("null", "true", "false")
    return False
