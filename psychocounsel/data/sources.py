"""Where rows come from: the sample, local files and folders, datasets of the Hugging Face hub, or a source of one's own."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from psychocounsel.data.base import Row, Source
from psychocounsel.data.rows import Example, parse_row
from psychocounsel.errors import UserError
from psychocounsel.remote.hub import dataset_location
from psychocounsel.settings.targets import build_section

_SAMPLE = Path(__file__).parent / "sample"


@dataclass
class StandardSource(Source):
    """`path` is `builtin:sample`, a file, a folder, or a hub dataset."""

    def rows(self, path: str | None, split: str, revision: str | None) -> Iterator[tuple[str, Row]]:
        assert path is not None
        local = Path(path)
        if path == "builtin:sample" or local.is_file():
            _check_split(split, ["train"], path)
            yield from sample_rows() if path == "builtin:sample" else _file_rows(local)
        else:
            name = local.name if local.exists() else path
            yield from _numbered(_load_dataset(path, split, revision), f"{name} ({split})")

    def files(self, path: str | None) -> Sequence[Path]:
        """None of a hub dataset, which its commit tells from others."""
        local = Path(str(path))
        if path == "builtin:sample":
            return sample_files()
        return [local] if local.is_file() else sorted(file for file in local.rglob("*") if file.is_file())


def source_of(data: DictConfig) -> Source:
    """What reads the rows of a checked `data` group."""
    source: Source = build_section(data, "data") if data.get("_target_") else StandardSource()
    return source


def load_examples(path: str | None, split: str, revision: str | None, source: Source | None = None) -> list[Example]:
    """Load every row of `path`, by `source` or else the standard one.

    Raises:
        UserError: for a missing file or split, an empty dataset, or a row that cannot be used (file and row named).
    """
    source = source or StandardSource()
    examples = [parse_row(row, where) for where, row in _read(source, path, split, revision)]
    if not examples:
        raise UserError(f"{path or source.name}: the dataset is empty")
    return examples


def _read(source: Source, path: str | None, split: str, revision: str | None) -> Iterator[tuple[str, Row]]:
    """The rows of a source, which may be a user's own, as far as they are of the form that Source asks for."""
    name = f"data: {type(source).__name__}.rows"
    try:
        for number, item in enumerate(source.rows(path, split, revision), 1):
            match item:
                case (str(where), Mapping() as row):
                    yield where, row
                case _:
                    raise UserError(f"{name}: row {number} is no pair of its place and a mapping of columns")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise UserError(f"{path or source.name}: cannot be read ({reason})") from error


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


def _file_rows(file: Path) -> Iterator[tuple[str, Row]]:
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    if file.suffix not in readers:
        raise UserError(f"{file}: unknown kind of file; use {', '.join(readers)} or a folder")
    try:
        yield from readers[file.suffix](file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text (byte {error.start})") from error


def _jsonl(file: Path) -> Iterator[tuple[str, Row]]:
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{file.name} line {number}"
                yield where, _object(_parse_json(line, where), where)


def _json(file: Path) -> Iterator[tuple[str, Row]]:
    rows = _parse_json(file.read_text(encoding="utf-8-sig"), file.name)
    if not isinstance(rows, list):
        raise UserError(f"{file}: must hold a list of rows; one JSON object a line belongs in a .jsonl file")
    yield from _numbered(rows, file.name)


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: is not valid JSON ({error.msg} at line {error.lineno} column {error.colno})"
        ) from error


def _parquet(file: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: is not a parquet file ({str(error).splitlines()[0]})") from error
    yield from _numbered(rows, file.name)


def _load_dataset(path: str, split: str, revision: str | None) -> Any:
    """A saved `datasets` folder, a folder of data files, or a hub dataset, through the datasets library."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs what it then raises, text included
    folder = Path(path)
    try:
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            loaded = datasets.load_from_disk(path)
        else:
            source = path if folder.exists() else dataset_location(path, revision)
            loaded = datasets.load_dataset(source, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{path}: cannot be loaded as a dataset ({_reason(error)})") from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    _check_split(split, splits, path)
    return splits[split]


def _reason(error: BaseException) -> str:
    """One line without what follows a colon, where some libraries quote the data."""
    root = error.__cause__ or error
    message = re.split(r"[:\n]", str(root))[0]
    return f"{type(root).__name__}: {message[:200]}"


def _check_split(split: str, splits: Iterable[str], path: str) -> None:
    if split not in splits:
        raise UserError(
            f"{path} has no split {split}; its splits are {', '.join(splits)} (data.split, data.eval_split)"
        )


def _numbered(rows: Iterable[Any], name: str) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, 1):
        where = f"{name} row {number}"
        yield where, _object(row, where)


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: must be a JSON object")
    return row
