"""Schema of configurations: one dataclass per group, with types, ranges and choices.

A group whose YAML names a `_target_` (such as `algo` or `cluster`) is checked against the dataclass of that name, so
its schema is defined next to the code that uses it. This module does not import torch, because it runs on login nodes.
"""

import dataclasses
import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from psychocounsel.errors import UserError


def option(default: Any, **limits: Any) -> Any:
    """Return a dataclass field with limits: `above`, `at_least`, `below`, `at_most` (numbers) or `choices` (a tuple).

    `word` is a word that is allowed instead of a number. `step`: of a command in steps, the step or steps (a tuple) whose
    results depend on the value; () for none. `path`: True for files and folders, which become absolute and whose content their
    steps depend on; "watched" if `Course.sources` watches the content.
    """
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=limits)
    return field(default=default, metadata=limits)


def marked(section: type, mark: str) -> dict[str, Any]:
    """Return the marks (`option(MARK=...)`) of a dataclass's fields by the fields' names, without fields that lack it."""
    return {item.name: item.metadata[mark] for item in dataclasses.fields(section) if mark in item.metadata}


@dataclass
class PathsConfig:
    output: str = MISSING
    cache: str = MISSING


@dataclass
class NoKeys:
    """Schema of a configuration that contains only groups."""


def flat_keys(node: Any, prefix: str = "") -> list[str]:
    """Return every dotted key of a configuration, including inner nodes."""
    keys = []
    for key in map(str, node) if isinstance(node, DictConfig) else ():
        keys.append(f"{prefix}{key}")
        keys += flat_keys(node._get_node(key), f"{prefix}{key}.")
    return keys


def suggestion(
    wrong: str, valid: list[str], otherwise: str = "`--help` lists the groups, `--cfg job` every key"
) -> str:
    """Return 'did you mean X?' for the nearest valid name, or `otherwise`; the last part of a dotted key counts most.

    Up to three keys that end in the wrong key's last part are all named, because only its group is wrong.
    """
    tails: dict[str, str] = {key.rsplit(".", 1)[-1]: key for key in reversed(valid)}
    last = wrong.rsplit(".", 1)[-1]
    elsewhere = [key for key in valid if key.rsplit(".", 1)[-1] == last]
    close = elsewhere if len(elsewhere) <= 3 else []
    close = close or difflib.get_close_matches(wrong, valid, 1, 0.75)
    if not close:
        matches = difflib.get_close_matches(last, list(tails), 1, 0.65) or [
            tail for tail in tails if tail.startswith(last)
        ]
        close = [tails[tail] for tail in matches[:1]]
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def check_limits(section: Any, values: Any, prefix: str = "", skip: Collection[str] = ()) -> None:
    """Check every value against its field's limits, recursively; fields in `skip` have a dataclass of their own.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    if isinstance(values, DictConfig):
        values = OmegaConf.to_container(values, resolve=True)  # reading plain values is ten times as fast
    types = _types(section)
    for item in dataclasses.fields(section):
        if item.name in skip:
            continue
        kind = types[item.name]
        key, missing = f"{prefix}{item.name}", values[item.name] == MISSING
        value: Any = None if missing else values[item.name]
        if dataclasses.is_dataclass(kind):
            check_limits(kind, value, f"{key}.")
        entry_type = next(iter(get_args(kind)), None)
        if isinstance(value, list) and dataclasses.is_dataclass(entry_type):
            for index, entry in enumerate(value):
                check_limits(entry_type, entry, f"{key}[{index}].")
        if missing:
            raise UserError(f"{key} is not set: add {key}=VALUE")
        if _takes_single_values(kind) and (nested := _first_nested(value, key)) is not None:
            raise UserError(f"{nested}: must be a single value, not a list or dictionary")
        if item.name not in _MAY_BE_EMPTY:
            refuse_empty(value, key)
        if problem := _problem(value, item.metadata):
            raise UserError(f"{key}={value}: must be {problem}")
        if (place := _out_of_range(value, key)) is not None:
            raise UserError(place)


def refuse_empty(value: Any, key: str) -> None:
    """Refuse an empty text, as a shell writes it for a variable without a value, also in a list and its dictionaries.

    Raises:
        UserError: naming `key`.
    """
    if value == "":
        place = f"{key}=VALUE" if key[-1:] != "]" else "a text"
        raise UserError(f"{key} is empty: give {place}, or leave it out")
    for index, entry in enumerate(value if isinstance(value, list) else ()):
        for name, inner in entry.items() if isinstance(entry, dict) else [("", entry)]:
            refuse_empty(inner, f"{key}[{index}]{f'.{name}' if name else ''}")


@cache
def _types(section: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields, whose own `type` is a text where annotations are postponed."""
    return get_type_hints(section)


def _takes_single_values(kind: Any) -> bool:
    """Return True for a list or dictionary of texts, numbers or booleans; OmegaConf lets other lists and dictionaries into it."""
    if isinstance(kind, UnionType):  # `dict[str, float] | None`
        return any(map(_takes_single_values, get_args(kind)))
    if get_origin(kind) not in (list, dict):
        return False
    entry = get_args(kind)[-1]
    return all(part in (str, int, float, bool, NoneType) for part in get_args(entry) or (entry,))


def _first_nested(value: Any, key: str) -> str | None:
    """Return the place of the first list or dictionary inside a list or dictionary, or None."""
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    named = f"{key}.{{}}" if isinstance(value, dict) else f"{key}[{{}}]"
    return next((named.format(place) for place, inner in places if isinstance(inner, list | dict)), None)


_MAY_BE_EMPTY = ("mail_type",)


_LARGEST = 1e15  # of any setting; products of larger numbers overflow


def _out_of_range(value: Any, key: str) -> str | None:
    """Return a message on the first number that is not finite, or too large, also in a list or mapping; or None."""
    if isinstance(value, int | float):
        allowed = "a finite number" if value != value or abs(value) == math.inf else f"at most {_LARGEST:g}"
        return None if abs(value) <= _LARGEST else f"{key}={value}: must be {allowed}"
    if isinstance(value, dict):
        inner = ((f"{key}.{name}", item) for name, item in value.items())
    elif isinstance(value, list):
        inner = ((f"{key}[{index}]", item) for index, item in enumerate(value))
    else:
        return None
    return next((problem for name, item in inner if (problem := _out_of_range(item, name))), None)


_COMPARISONS = {
    "above": ("greater than", lambda value, limit: value > limit),
    "at_least": ("at least", lambda value, limit: value >= limit),
    "below": ("less than", lambda value, limit: value < limit),
    "at_most": ("at most", lambda value, limit: value <= limit),
}


def _problem(value: Any, limits: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if value is None or not limits:
        return None
    if "choices" in limits and value not in limits["choices"]:
        return "one of " + ", ".join(map(str, limits["choices"]))
    if isinstance(value, str) and "word" in limits:
        return None if value == limits["word"] else f"a number or {limits['word']}"
    for name, (words, holds) in _COMPARISONS.items():
        if name in limits and not holds(value, limits[name]):
            return f"{words} {limits[name]}"
    return None
