"""Rows of the page of keys, from configuration files, dataclasses and meanings.yaml."""

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from site_builder.key_sources import KeyFile, SchemaKey, read_keys, schema_keys

_MEANINGS = Path(__file__).with_name("meanings.yaml")


@dataclass
class Row:
    """One key: its type and limits, its default in each file that gives one, its meaning, and the choices that have it."""

    name: str
    meaning: str
    schema: SchemaKey | None
    defaults: dict[str, str] = field(default_factory=dict)
    owners: list[str] = field(default_factory=list)  # [] if all choices have it


@cache
def own_meanings() -> dict[str, str]:
    """Return meanings of keys without a comment in a YAML file, by full name. `judge(checks).model` names a key of one choice."""
    return dict(yaml.safe_load(_MEANINGS.read_text(encoding="utf-8")))


def class_at(name: str) -> Any:
    """Import and return the class with this dotted name."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last)


def command_rows(file: KeyFile, schemas: list[type]) -> list[Row]:
    """Return rows of a command's own keys: the keys of its file, and the fields of dataclasses that no file lists."""
    known: dict[str, SchemaKey] = {}
    for schema in schemas:
        known |= schema_keys(schema)
    sections = {key.name for key in file.keys if key.default is None}
    rows = [Row(key.name, key.meaning, known.get(key.name), {"": key.default or ""}) for key in file.keys]
    named = {row.name for row in rows}
    rows += [
        Row(name, "", schema, {"": schema.default})
        for name, schema in known.items()
        if name not in named and (name.partition(".")[0] in sections or "." not in name) and schema.type != "section"
    ]
    return rows


def schema_rows(schema: type) -> list[Row]:
    """Return rows of a dataclass that has no YAML file."""
    keys = schema_keys(schema)
    return [Row(name, "", key, {"": key.default}) for name, key in keys.items() if key.type != "section"]


def group_rows(files: dict[str, KeyFile], group: str, default_schema: type | None = None) -> list[Row]:
    """Return rows of the keys that the choices of a group have. A key has one row for each of its meanings."""
    rows: dict[tuple[str, str], Row] = {}
    plain: dict[str, str] = {}
    for choice, file in files.items():
        schema = schema_of(file, default_schema)
        known = schema_keys(schema, f"{group}.") if schema else {}
        for key in file.keys:
            full = f"{group}.{key.name}"
            if key.meaning:
                plain.setdefault(full, key.meaning)
            meaning = (
                own_meanings().get(f"{group}({choice}).{key.name}")
                or key.meaning
                or own_meanings().get(full)
                or plain.get(full, "")
            )
            row = rows.setdefault((full, meaning), Row(full, meaning, known.get(full)))
            row.schema = row.schema or known.get(full)
            row.defaults[choice] = key.default or ""
    joined = _joined([*rows.values()])
    _fill_schemas(joined, files, group)
    for row in joined:
        row.owners = _owners(row, [other for other in joined if other.name == row.name], files)
    return joined


def _fill_schemas(rows: list[Row], files: dict[str, KeyFile], group: str) -> None:
    """Set the types of keys in shared files, from the first class of the group that has such a key."""
    known = [schema_keys(schema, f"{group}.") for file in files.values() if (schema := schema_of(file))]
    for row in rows:
        row.schema = row.schema or next((keys[row.name] for keys in known if row.name in keys), None)


def _owners(row: Row, same: list[Row], files: dict[str, KeyFile]) -> list[str]:
    """Return the choices that have a key with this row's meaning; [] if all choices of the group have it."""
    named = {choice for other in same for choice in other.defaults}
    chosen = [choice for choice, file in files.items() if file.target or not _is_shared(choice, files)]

    def has(choice: str) -> bool:
        if choice in named:
            return choice in row.defaults
        inner = (base.rpartition("/")[2] for base in files[choice].bases)
        return any(base in files and has(base) for base in inner)

    owners = [choice for choice in chosen if has(choice)]
    return [] if len(owners) == len(chosen) else owners


def _is_shared(choice: str, files: dict[str, KeyFile]) -> bool:
    return any(f"/shared/{choice}" in file.bases for file in files.values())


def _joined(rows: list[Row]) -> list[Row]:
    """Return the rows with the rows of a key together. A row without a meaning is joined with the first row of its key."""
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        same = by_key.setdefault(row.name, [])
        if same and (not row.meaning or not same[0].meaning):
            same[0].meaning = same[0].meaning or row.meaning
            same[0].defaults |= row.defaults
            same[0].schema = same[0].schema or row.schema
        else:
            same.append(row)
    return [row for same in by_key.values() for row in same]


def schema_of(file: KeyFile, default_schema: type | None = None) -> type | None:
    """Return the dataclass of a choice: its `_target_`, or otherwise the dataclass of its group."""
    return class_at(file.target) if file.target else default_schema


def choices(folder: Path) -> dict[str, KeyFile]:
    """Return the files of a group by name. Files without a base in the group come first."""
    files = {path.stem: read_keys(path) for path in sorted(folder.glob("*.yaml"))}
    return dict(sorted(files.items(), key=lambda item: bool(set(item[1].bases) & {*files})))
