"""Reads YAML files into dataclasses. All problems of a file are listed by key, without quoting values."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml

from psychocounsel.storage.yaml_limits import Loader, Unbounded, bounded

Problems = list[str]
_KINDS = {str: "text", int: "a whole number", bool: "true or false"}


class _DuplicateKey(yaml.YAMLError):
    """A duplicate key in a mapping; YAML itself would silently keep the last one."""


class _StrictLoader(Loader):  # type: ignore[misc, valid-type]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise _DuplicateKey(f"line {node.value[place][0].start_mark.line + 1}: {shown(key)} is given twice")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_file(kind: Any, file: Path, problems: Problems) -> Any:
    """Read a file as the type `kind` (see `read_part`). If it has problems, add them to the list and return None."""
    before = len(problems)
    value = _parse(file, problems)
    part = read_part(kind, value, file.name, problems) if len(problems) == before else None
    return part if len(problems) == before else None


def _parse(file: Path, problems: Problems) -> Any:
    try:
        return yaml.load(bounded(file.read_text(encoding="utf-8")), _StrictLoader)
    except FileNotFoundError:
        problems.append(f"{file.name} is missing")
    except OSError as error:
        problems.append(f"{file.name} cannot be read ({error.strerror})")
    except UnicodeDecodeError:
        problems.append(f"{file.name} is not UTF-8 text")
    except _DuplicateKey as error:
        problems.append(f"{file.name} {error}")
    except Unbounded as error:
        problems.append(f"{file.name}: {error}")
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problems.append(f"{file.name} is not valid YAML" + (f" (line {mark.line + 1})" if mark else ""))
    return None


def read_part(kind: Any, value: Any, key: str, problems: Problems) -> Any:
    """Return `value` as the type `kind`: a dataclass, a tuple or dict of these, text, an integer or a boolean.

    Any type may be annotated with limits (see rubric.py); `or_one` accepts a single value instead of a list. A dataclass
    field with a default is optional in the file. Problems are added to the list; if there are any, the returned value
    must not be used.
    """
    kind, *annotations = typing.get_args(kind) if typing.get_origin(kind) is Annotated else (kind,)
    limits: Mapping[str, Any] = annotations[0] if annotations else {}
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, key, problems)
    if typing.get_origin(kind) is tuple:
        return _tuple(typing.get_args(kind)[0], value, key, problems, limits)
    if typing.get_origin(kind) is dict:
        return _dict(typing.get_args(kind), value, key, problems, limits.get("keys"))
    if type(value) is not kind or (kind is str and not value.strip()):
        problems.append(f"{key} must be {_KINDS[kind]}{_unquoted(kind, value)}")
    elif value not in limits.get("choices", [value]):
        problems.append(f"{key} must be one of {', '.join(map(str, limits['choices']))}")
    return value.strip() if isinstance(value, str) else value


def _unquoted(kind: Any, value: Any) -> str:
    """Return a hint to use quotes, because YAML reads yes, no, on, off and plain numbers as something other than text."""
    return " (write it in quotes)" if kind is str and isinstance(value, bool | int | float) else ""


def _dataclass(kind: Any, value: Any, key: str, problems: Problems) -> Any:
    if not isinstance(value, dict):
        problems.append(f"{key} must be a mapping")
        return None
    hints = typing.get_type_hints(kind, include_extras=True)
    own = dataclasses.fields(kind)
    needed = {field.name for field in own if field.default is field.default_factory is dataclasses.MISSING}
    # The field `if_` holds the key `if`, because `if` is a Python keyword.
    written = {name: name.removesuffix("_") for name in hints}
    check_keys(value, written.values(), key, problems, [written[name] for name in hints if name in needed])
    parts = {
        name: read_part(hint, value[written[name]], f"{key}: {written[name]}", problems)
        for name, hint in hints.items()
        if written[name] in value
    }
    return kind(**parts) if needed <= parts.keys() else None


def _tuple(kind: Any, value: Any, key: str, problems: Problems, limits: Mapping[str, Any]) -> tuple[Any, ...]:
    at_least = limits.get("at_least", 1)
    if limits.get("or_one") and not isinstance(value, list):
        value = [value]
    if not isinstance(value, list):
        problems.append(f"{key} must be a list")
        return ()
    if len(value) < at_least:
        problems.append(f"{key} needs {at_least} {'entry' if at_least == 1 else 'entries'}, but has {len(value)}")
    return tuple(read_part(kind, entry, f"{key}[{place}]", problems) for place, entry in enumerate(value, 1))


def _dict(
    kinds: tuple[Any, ...], value: Any, key: str, problems: Problems, keys: Sequence[Any] | None
) -> dict[Any, Any]:
    """Read a mapping; with `keys`, the result has their order instead of the file's."""
    if not isinstance(value, dict) or not value:
        problems.append(f"{key} must be a mapping")
        return {}
    if keys is not None:
        check_keys(value, keys, key, problems)
    elif any(type(name) is not kinds[0] for name in value):
        problems.append(f"{key} needs keys that are text{_unquoted(str, next(iter(value)))}")
    names = [name for name in keys or value if name in value]
    return {name: read_part(kinds[1], value[name], f"{key}.{shown(name)}", problems) for name in names}


def check_keys(
    value: Iterable[Any], keys: Iterable[Any], where: str, problems: Problems, needed: Iterable[Any] | None = None
) -> None:
    """Add a problem for each of `needed` (default: all of `keys`) that is missing, and for each key not in `keys`."""
    keys, given = list(keys), list(value)
    problems += [f"{where}: {key} is missing" for key in (keys if needed is None else needed) if key not in given]
    for wrong in (key for key in given if key not in keys):
        close = difflib.get_close_matches(str(wrong), [str(key) for key in keys if key not in given], 1, 0.7)
        problems.append(f"{where}: unknown key {shown(wrong)}" + (f" (did you mean {close[0]}?)" if close else ""))


def shown(key: Any) -> str:
    """Return a key of a file in a short form without line breaks."""
    text = str(key)
    return text if text.isprintable() and len(text) <= 40 else ascii(text[:40])
