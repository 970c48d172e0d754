"""Facts about a key: type and limits from the dataclasses of the schema, default and meaning from the files of `conf/`."""

import dataclasses
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

# Dataclasses of the schema.

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
    keys: dict[str, SchemaKey] = {}
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        name, kind = f"{prefix}{item.name}", hints[item.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            keys[name] = SchemaKey("section", "", "")
            keys |= schema_keys(kind, f"{name}.")
        else:
            keys[name] = SchemaKey(_type(kind), _limits(item.metadata), _default(item))
    return keys


def _type(kind: Any) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(part) for part in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"mapping of {_type(inner[1])}"
    return "mapping" if dataclasses.is_dataclass(kind) else str(getattr(kind, "__name__", kind))


def _limits(metadata: Any) -> str:
    parts = [words.format(metadata[name]) for name, words in _LIMITS.items() if name in metadata]
    if "choices" in metadata:
        parts.append(" ".join(f"`{_plain(choice)}`" for choice in metadata["choices"]))
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
        return "{" + ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items()) + "}"
    return str(value)


# Files of `conf/`.

_CONTINUED = 16  # a comment line that begins in this column or further right continues the comment above it


@dataclass(frozen=True)
class FileKey:
    """One key of a file: its dotted name, its default as written there (None: a section), and its comment."""

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class KeyFile:
    """A configuration file: the comment at its head, its bases, its `_target_`, and its keys."""

    about: str
    bases: tuple[str, ...]
    target: str | None
    is_global: bool
    keys: tuple[FileKey, ...]


def read_keys(path: Path) -> KeyFile:
    """Return the keys of a file in their order; sections written on one line count as values."""
    text = path.read_text(encoding="utf-8")
    comments, root = _comments(text), yaml.compose(text)
    content = yaml.safe_load(text) or {}
    about = [line[1:].strip() for line in _head(text) if "@package" not in line]
    keys = () if root is None else tuple(_keys(root, comments, text, ""))
    target = next((key.default for key in keys if key.name.rpartition(".")[2] == "_target_"), None)
    bases = tuple(base for entry in content.get("defaults", []) for base in _base(entry))
    kept = tuple(key for key in keys if key.name.partition(".")[0] not in ("defaults", "hydra"))
    is_global = "# @package _global_" in text
    return KeyFile(" ".join(about), bases, target, is_global, tuple(k for k in kept if "_target_" not in k.name))


def _head(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return lines


def _base(entry: Any) -> list[str]:
    """Return the base that an entry of `defaults` names: [NAME] in the same group, [/GROUP/NAME] in another one, or []."""
    if isinstance(entry, str):
        return [] if entry == "_self_" else [entry.removesuffix("@_here_")]
    ((group, choice),) = entry.items()
    return [f"{group.removesuffix('@_here_')}/{choice}"] if group.endswith("@_here_") else []


def _comments(text: str) -> dict[int, str]:
    """Return the comment after the code of each line, by line number from 0, with the comment lines that continue it."""
    ends: dict[int, int] = {}
    for token in yaml.scan(text):
        if token.end_mark.column or token.start_mark.line == token.end_mark.line:
            ends[token.end_mark.line] = max(ends.get(token.end_mark.line, 0), token.end_mark.column)
    comments: dict[int, str] = {}
    last = -1
    for number, line in enumerate(text.splitlines()):
        rest = line[ends.get(number, 0) :].strip()
        if number not in ends and rest.startswith("#") and line.index("#") >= _CONTINUED and last >= 0:
            comments[last] += f" {rest[1:].strip()}"
        elif number in ends:
            last = number if rest.startswith("#") else -1
            if last >= 0:
                comments[number] = rest[1:].strip()
    return comments


def _keys(node: yaml.MappingNode, comments: dict[int, str], text: str, prefix: str) -> list[FileKey]:
    keys = []
    for key, value in node.value:
        name, meaning = f"{prefix}{key.value}", comments.get(key.start_mark.line, "")
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            keys.append(FileKey(name, None, meaning))
            keys += _keys(value, comments, text, f"{name}.")
        else:
            end = comments.get(value.end_mark.line, "") if value.end_mark.column else ""
            keys.append(FileKey(name, _written(value, text), meaning or end))
    return keys


def _written(node: yaml.Node, text: str) -> str:
    """Return a value as it is written in the file. A block list is put on one line."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return "[" + ", ".join(_written(item, text) for item in node.value) + "]"
    return " ".join(text[node.start_mark.index : node.end_mark.index].split())
