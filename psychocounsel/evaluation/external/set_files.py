"""A user's file as a set: of multiple-choice items, or of prompts with criteria by which a judge rates replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.evaluation.external.exam_columns import COLUMNS as EXAM_COLUMNS
from psychocounsel.evaluation.external.exam_items import ExamItem, ExamSet, exam_set, is_exam_row
from psychocounsel.evaluation.external.rubric_items import COLUMNS as RUBRIC_COLUMNS
from psychocounsel.evaluation.external.rubric_items import RubricItem, RubricSet, rubric_set, shared_criteria

T = TypeVar("T", ExamItem, RubricItem)

KINDS = ("exam", "rubric")


@dataclass(frozen=True)
class SetFile:
    """An entry of `evaluation.sets`.

    Attributes:
        path: a .jsonl, .json, .csv, .tsv or .parquet file, a folder, or a dataset of the hub.
        name: what tables call the set; by default the file's name without its ending.
        kind: `exam` or `rubric`; by default told from the columns.
        columns: which column holds what, where names are unusual: `{question: stem, answer: key}`.
        criteria: of a rubric set whose rows name none: a .json or .yaml list, or a rubric (builtin:en, a folder).
        limit: at most so many items, chosen by their hashes, so that the order of a file does not decide.
    """

    path: str
    name: str
    split: str = "train"
    revision: str | None = None
    kind: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    criteria: str | None = None
    limit: int | None = None


def set_file(entry: Any, key: str) -> SetFile:
    """An entry as the user wrote it: a path, or a mapping with the fields of SetFile.

    Raises:
        UserError: for another form, an unknown field or a kind that there is not; `key` is where the entry stands.
    """
    entry = {"path": entry} if isinstance(entry, str) else entry
    known = [each.name for each in fields(SetFile)]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise UserError(f"{key}: is no file; give a path, or {{path: FILE, columns: {{question: NAME}}}}")
    if unknown := sorted({*entry} - {*known}):
        raise UserError(f"{key}: knows no {unknown[0]}; its fields are {', '.join(known)}")
    given = {name: value for name, value in entry.items() if value is not None}
    found = SetFile(**{"name": Path(given["path"]).name.split(".")[0], **given})
    if found.kind not in (None, *KINDS):
        raise UserError(f"{key}.kind={found.kind}: must be {' or '.join(KINDS)}")
    if found.limit is not None and (not isinstance(found.limit, int) or found.limit < 1):
        raise UserError(f"{key}.limit: must be a whole number from 1")
    if not isinstance(found.columns, Mapping):
        raise UserError(f"{key}.columns: must be a mapping, as {{question: NAME}}")
    names = [*EXAM_COLUMNS, *(name for name in RUBRIC_COLUMNS if name not in EXAM_COLUMNS)]
    if wrong := sorted({*found.columns} - {*names}):
        raise UserError(f"{key}.columns: knows no {wrong[0]}; what a column may hold: {', '.join(names)}")
    return found


def read_set(entry: Any, key: str) -> ExamSet | RubricSet:
    """The set of an entry of `evaluation.sets`; `key` is where it stands.

    Raises:
        UserError: for a file that cannot be read, or a row that cannot be used; it names file and row.
    """
    file = set_file(entry, key)
    rows = [*_rows(file)]
    if not rows:
        raise UserError(f"{file.path}: holds no row")
    shared = shared_criteria(file.criteria, f"{key}.criteria") if file.criteria else None
    first = rows[0][1]
    kind = file.kind or ("exam" if not shared and is_exam_row(first, file.columns) else "rubric")
    found = (
        exam_set(file.name, rows, file.columns) if kind == "exam" else rubric_set(file.name, rows, file.columns, shared)
    )
    if isinstance(found, ExamSet):
        return replace(found, items=_limited(found.items, file.limit))
    return replace(found, items=_limited(found.items, file.limit))


def _limited(items: tuple[T, ...], limit: int | None) -> tuple[T, ...]:
    """At most `limit` items, chosen by their hashes, in the order of the file."""
    kept = {*sorted(each.item for each in items)[:limit]}
    return tuple(each for each in items if each.item in kept)


def read_sets(entries: Any, key: str = "evaluation.sets") -> list[ExamSet | RubricSet]:
    """All sets.

    Raises:
        UserError: as `read_set`, or for two sets of one name.
    """
    found = [read_set(entry, f"{key}[{number}]") for number, entry in enumerate(entries)]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{key}: two sets have the name {name}; give one of them a name: {{path: FILE, name: NAME}}"
            )
    return found


def _rows(file: SetFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, row in read_rows(StandardSource(), file.path, file.split, file.revision):
        if isinstance(row, UserError):
            raise row
        yield where, row
