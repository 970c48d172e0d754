"""YAML files as dataclasses. All problems of a file are listed, by key; values are not quoted."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml

Problems = list[str]
_KINDS = {str: "text", int: "a whole number", bool: "true or false"}


class _DuplicateKey(yaml.YAMLError):
    """A key stands twice in one mapping, where YAML itself would silently keep the last."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise _DuplicateKey(f"line {node.value[place][0].start_mark.line + 1}: {shown(key)} stands there twice")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_file(kind: Any, file: Path, problems: Problems) -> Any:
    """A file as the type `kind` (see `read_part`). None if the file has problems, which are added to the list."""
    found = len(problems)
    value = _parse(file, problems)
    part = read_part(kind, value, file.name, problems) if len(problems) == found else None
    return part if len(problems) == found else None


def _parse(file: Path, problems: Problems) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        problems.append(f"{file.name} is missing")
    except OSError as error:
        problems.append(f"{file.name} cannot be read ({error.strerror})")
    except UnicodeDecodeError:
        problems.append(f"{file.name} is not UTF-8 text")
    except _DuplicateKey as error:
        problems.append(f"{file.name} {error}")
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problems.append(f"{file.name} is not valid YAML" + (f" (line {mark.line + 1})" if mark else ""))
    return None


def read_part(kind: Any, value: Any, key: str, problems: Problems) -> Any:
    """`value` as the type `kind`: a dataclass, a tuple or dict of such, text, an integer or true and false.

    Each may be annotated with limits. A field of a dataclass with a default may be left out of the file.
    Problems are added to the list; if there are any, the value that comes back is not to be used.
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
    """YAML reads yes, no, on, off and plain numbers as something else than text."""
    return " (write it in quotes)" if kind is str and isinstance(value, bool | int | float) else ""


def _dataclass(kind: Any, value: Any, key: str, problems: Problems) -> Any:
    if not isinstance(value, dict):
        problems.append(f"{key} must be a mapping")
        return None
    hints = typing.get_type_hints(kind, include_extras=True)
    needed = {name for name in hints if not _has_default(kind, name)}
    written = {name: name.removesuffix("_") for name in hints}  # `if_` stands for a key that is a word of Python
    check_keys(value, written.values(), key, problems, [written[name] for name in hints if name in needed])
    parts = {
        name: read_part(hint, value[written[name]], f"{key}: {written[name]}", problems)
        for name, hint in hints.items()
        if written[name] in value
    }
    return kind(**parts) if needed <= parts.keys() else None


def _has_default(kind: Any, name: str) -> bool:
    field = kind.__dataclass_fields__[name]
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _tuple(kind: Any, value: Any, key: str, problems: Problems, limits: Mapping[str, Any]) -> tuple[Any, ...]:
    at_least = limits.get("at_least", 1)
    if limits.get("or_one") and not isinstance(value, list):
        value = [value]
    if not isinstance(value, list):
        problems.append(f"{key} must be a list")
        return ()
    if len(value) < at_least:
        problems.append(f"{key} needs {at_least} {'entry' if at_least == 1 else 'entries'}, and has {len(value)}")
    return tuple(read_part(kind, each, f"{key}[{place}]", problems) for place, each in enumerate(value, 1))


def _dict(
    kinds: tuple[Any, ...], value: Any, key: str, problems: Problems, keys: Sequence[Any] | None
) -> dict[Any, Any]:
    """With `keys`, in their order, whatever the file's."""
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
    """Note each of `needed` (default: all of `keys`) that is missing in `value`, and each key that is none of `keys`."""
    keys, given = list(keys), list(value)
    problems += [f"{where}: {key} is missing" for key in (keys if needed is None else needed) if key not in given]
    for wrong in (key for key in given if key not in keys):
        close = difflib.get_close_matches(str(wrong), [str(key) for key in keys if key not in given], 1, 0.7)
        problems.append(f"{where}: unknown key {shown(wrong)}" + (f" (did you mean {close[0]}?)" if close else ""))


def shown(key: Any) -> str:
    """A key of a file, short and in one line."""
    text = str(key)
    return text if text.isprintable() and len(text) <= 40 else ascii(text[:40])
