"""Sets read from users' files: an exam (multiple-choice items) or a rubric set (prompts with criteria)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.evaluation.external.exams import COLUMNS as EXAM_COLUMNS
from psychocounsel.evaluation.external.exams import ExamItem, ExamSet, exam_set, is_exam_row
from psychocounsel.grading.criteria import COLUMNS as RUBRIC_COLUMNS
from psychocounsel.grading.criteria import RubricItem, RubricSet, rubric_set, shared_criteria

T = TypeVar("T", ExamItem, RubricItem)

KINDS = ("exam", "rubric")


@dataclass(frozen=True)
class SetFile:
    """Entry of `evaluation.sets`.

    Attributes:
        path: a .jsonl, .json, .csv, .tsv or .parquet file, a folder, or a hub dataset.
        name: name of the set in tables; by default the file's name without its ending.
        split: split of a hub dataset.
        revision: revision of a hub dataset; None: the newest.
        kind: `exam` or `rubric`; by default derived from the columns.
        columns: unusual column names, for instance `{question: stem, answer: key}`.
        criteria: criteria for all rows of a rubric set: a .json or .yaml list, or a rubric (builtin:en, a folder).
        limit: largest number of items; they are chosen by hash, so that the order of the file does not matter.
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
    """Convert an entry as the user wrote it: a path, or a mapping with the fields of SetFile. `key`: the entry's setting.

    Raises:
        UserError: if the entry has another form, an unknown field, or a wrong kind, limit or columns.
    """
    entry = {"path": entry} if isinstance(entry, str) else entry
    known = [attribute.name for attribute in fields(SetFile)]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise UserError(f"{key}: has no path; write a path, or {{path: FILE, columns: {{question: NAME}}}}")
    if unknown := sorted({*entry} - {*known}):
        raise UserError(f"{key}: has no field {unknown[0]}; the fields are {', '.join(known)}")
    values = {name: value for name, value in entry.items() if value is not None}
    for name in ("name", "split", "revision", "criteria"):
        if name in values and not isinstance(values[name], str):
            raise UserError(f'{key}.{name}={values[name]}: must be a text; put it in quotes: "{values[name]}"')
    file = SetFile(**{"name": Path(values["path"]).name.split(".")[0], **values})
    if file.kind not in (None, *KINDS):
        raise UserError(f"{key}.kind={file.kind}: must be {' or '.join(KINDS)}")
    if file.limit is not None and (type(file.limit) is not int or file.limit < 1):
        raise UserError(f"{key}.limit: must be a whole number of at least 1")
    if not isinstance(file.columns, Mapping):
        raise UserError(f"{key}.columns: must be a mapping such as {{question: NAME}}")
    names = [*EXAM_COLUMNS, *(name for name in RUBRIC_COLUMNS if name not in EXAM_COLUMNS)]
    if wrong := sorted({*file.columns} - {*names}):
        raise UserError(f"{key}.columns: has no key {wrong[0]}; the keys are {', '.join(names)}")
    return file


def read_set(entry: Any, key: str) -> ExamSet | RubricSet:
    """Read the set of one entry of `evaluation.sets`. `key`: the entry's setting.

    Raises:
        UserError: if the entry is malformed, the file cannot be read or has no rows, or a row is unusable.
    """
    file = set_file(entry, key)
    rows = [*_rows(file)]
    if not rows:
        raise UserError(f"{file.path}: has no rows")
    shared = shared_criteria(file.criteria, f"{key}.criteria") if file.criteria else None
    first = rows[0][1]
    kind = file.kind or ("exam" if not shared and is_exam_row(first, file.columns) else "rubric")
    whole = (
        exam_set(file.name, rows, file.columns) if kind == "exam" else rubric_set(file.name, rows, file.columns, shared)
    )
    if isinstance(whole, ExamSet):
        return replace(whole, items=_limited(whole.items, file.limit))
    return replace(whole, items=_limited(whole.items, file.limit))


def _limited(items: tuple[T, ...], limit: int | None) -> tuple[T, ...]:
    """Return at most `limit` items, chosen by their hashes, in the order of the file."""
    kept = {*sorted(item.item for item in items)[:limit]}
    return tuple(item for item in items if item.item in kept)


def read_sets(entries: Any) -> list[ExamSet | RubricSet]:
    """Read all sets.

    Raises:
        UserError: see `read_set`; also if two sets have the same name.
    """
    sets = [read_set(entry, f"evaluation.sets[{number}]") for number, entry in enumerate(entries)]
    names = [item_set.name for item_set in sets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"evaluation.sets: two sets are named {name}; rename one of them: {{path: FILE, name: NAME}}"
            )
    return sets


def _rows(file: SetFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, row in read_rows(StandardSource(), file.path, file.split, file.revision):
        if isinstance(row, UserError):
            raise row
        yield where, row
