"""Where rows come from: the sample, local files and folders, and datasets of the Hugging Face hub."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from psychocounsel.data.rows import Example, parse_row
from psychocounsel.errors import UserError

Row = Mapping[str, Any]

_SAMPLE = Path(__file__).parent / "sample"


def load_examples(path: str, split: str, revision: str | None) -> list[Example]:
    """Load every row of `path`: `builtin:sample`, a file, a folder, or a hub dataset.

    Raises:
        UserError: for a missing file or split, an empty dataset, or a row that cannot be used (file and row named).
    """
    examples = [parse_row(row, where) for where, row in _rows(path, split, revision)]
    if not examples:
        raise UserError(f"{path}: the dataset is empty")
    return examples


def _rows(path: str, split: str, revision: str | None) -> Iterator[tuple[str, Row]]:
    if path == "builtin:sample":
        yield from sample_rows()
        return
    local = Path(path)
    if local.suffix in (".jsonl", ".json") and local.is_file():
        yield from _jsonl(local)
    elif local.is_file():
        yield from _numbered(_load_parquet(local), local.name)
    else:
        yield from _numbered(_load_dataset(path, split, revision), f"{local.name if local.exists() else path} ({split})")


@cache
def sample_files() -> tuple[Path, ...]:
    return tuple(sorted(_SAMPLE.glob("*.yaml")))


def sample_rows() -> Iterator[tuple[str, Row]]:
    """The sample as rated rows; its sources are one YAML file a topic."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sample_files():
        for entry in yaml.load(file.read_text(encoding="utf-8"), loader):
            where = f"{file.name} {entry['id']}"
            yield where, {"id": entry["id"], "prompt": entry["speech"], "replies": entry["replies"]}


def _jsonl(file: Path) -> Iterator[tuple[str, Row]]:
    if file.suffix == ".json":
        rows = _parse_json(file.read_text(encoding="utf-8"), file.name)
        if not isinstance(rows, list):
            raise UserError(f"{file}: must hold a list of rows; one JSON object a line belongs in a .jsonl file")
        yield from _numbered(rows, file.name)
        return
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{file.name} line {number}"
                row = _parse_json(line, where)
                if not isinstance(row, dict):
                    raise UserError(f"{where}: must be a JSON object")
                yield where, row


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: is not valid JSON ({error.msg} at column {error.colno})") from error


def _load_parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix != ".parquet":
        raise UserError(f"{file}: unknown kind of file; use .jsonl, .json or .parquet, or a folder")
    try:
        return pq.read_table(file).to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: is not a parquet file ({str(error).splitlines()[0]})") from error


def _load_dataset(path: str, split: str, revision: str | None) -> Any:
    """A saved `datasets` folder, a folder of data files, or a hub dataset, through the datasets library."""
    import datasets

    datasets.disable_progress_bars()
    folder = Path(path)
    try:
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(path)
            return _pick_split(saved, split, path) if isinstance(saved, datasets.DatasetDict) else saved
        return _pick_split(datasets.load_dataset(path, revision=revision), split, path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = re.split(r"[\n]", str(error))[0][:200]
        raise UserError(f"data.path={path}: cannot be loaded ({type(error).__name__}: {reason})") from error


def _pick_split(splits: Any, split: str, path: str) -> Any:
    if split not in splits:
        raise UserError(f"data.split={split}: {path} has the splits {', '.join(splits)}")
    return splits[split]


def _numbered(rows: Any, name: str) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UserError(f"{name} row {number}: must be a JSON object")
        yield f"{name} row {number}", row
