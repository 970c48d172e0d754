"""Types and limits of keys in words, from the dataclasses of the schema."""

import dataclasses
import types
import typing
from typing import Any

from omegaconf import MISSING

_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "any", type(None): "null"}
_LIMITS = {"above": "> {}", "at_least": "≥ {}", "below": "< {}", "at_most": "≤ {}"}


@dataclasses.dataclass(frozen=True)
class SchemaKey:
    """The type of a key, its limits or choices, and the default of its dataclass ("": none)."""

    type: str
    limits: str
    default: str


def schema_keys(schema: type, prefix: str = "") -> dict[str, SchemaKey]:
    """Return the dotted keys of a dataclass and of the dataclasses in it; a section has the type "section"."""
    found: dict[str, SchemaKey] = {}
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        name, kind = f"{prefix}{item.name}", hints[item.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found[name] = SchemaKey("section", "", "")
            found |= schema_keys(kind, f"{name}.")
        else:
            found[name] = SchemaKey(_type(kind), _limits(item.metadata), _default(item))
    return found


def _type(kind: Any) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(each) for each in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"mapping of {_type(inner[1])}"
    return "mapping" if dataclasses.is_dataclass(kind) else str(getattr(kind, "__name__", kind))


def _limits(metadata: Any) -> str:
    parts = [words.format(metadata[name]) for name, words in _LIMITS.items() if name in metadata]
    if "choices" in metadata:
        parts.append(" ".join(f"`{_plain(each)}`" for each in metadata["choices"]))
    if "word" in metadata:
        parts.append(f"or `{metadata['word']}`")
    return ", ".join(parts)


def _default(item: dataclasses.Field) -> str:
    if item.default_factory is not dataclasses.MISSING:
        return _plain(item.default_factory())
    return "???" if item.default in (MISSING, dataclasses.MISSING) else _plain(item.default)


def _plain(value: Any) -> str:
    """Return a value as it would be written in a YAML file."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(each)}" for key, each in value.items()) + "}"
    return str(value)
