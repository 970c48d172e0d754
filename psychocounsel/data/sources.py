"""Readers of rows: shipped data, local files and folders, datasets of the Hugging Face hub, or a user's own source."""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.data.base import Row, Source
from psychocounsel.data.file_sizes import check_sizes
from psychocounsel.data.files import file_rows, kind_of, numbered
from psychocounsel.data.likely_columns import likely_columns, may_be_texts
from psychocounsel.data.messages import TALKS, first_of
from psychocounsel.data.rows import IDS, TEXTS, Example, UnknownColumns, parse_row, unread_columns
from psychocounsel.data.settings import columns_in
from psychocounsel.data.shaping import chosen, shaped
from psychocounsel.data.shipped_rows import SHIPPED
from psychocounsel.errors import UserError, words
from psychocounsel.remote.hub import dataset_location
from psychocounsel.settings.targets import build_section, wrong_return
from psychocounsel.storage.files import with_noun
from psychocounsel.storage.modes import mask_of, own_umask, restricted

# Cells of a CSV file that are missing: the empty ones. pandas would drop a client who says "None", too.
_EMPTY_CELLS: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
_SPLITS = {  # by words in the name of a file or of its folder
    "test": {"test", "testing", "eval", "evaluation"},
    "validation": {"validation", "valid", "val", "dev"},
    "train": {"train", "training"},
}
# Columns whose cells stay texts even if all of them are numbers: as numbers, the ids 001 and 1 would be the same.
_AS_TEXT = {*TEXTS, *IDS, "topic", "risk", "language", "item", "rater", "expert"}

_WITHOUT_LABEL = (
    "has a reply and no label, and other rows have one: add it, or rename the column if it does not say whether a reply "
    "is good"
)


@dataclass
class StandardSource(Source):
    """Reads `path`: shipped data (`builtin:NAME`), a file, a folder, or a hub dataset.

    `copies`: a folder for the copies that the datasets library makes of local files; None: its cache.
    """

    copies: Path | None = None
    alone: bool = False  # True if the run reads no other file, which `columns` may have been written for
    advises: bool = False  # True if errors may advise keys such as `columns`, which the command that reads the rows has
    left_out: set[str] = field(default_factory=set)  # places or conversations of the rows that `where` did not choose

    @property
    def texts(self) -> set[str]:
        """The columns of a table whose cells stay texts even if all of them are numbers."""
        named = {
            column for name, given in (self.columns or {}).items() if name in _AS_TEXT for column in columns_in(given)
        }
        return {*_AS_TEXT, *named, *([self.group_by] if self.group_by else [])}

    def rows(self, path: str | None, split: str, revision: str | None) -> Iterator[tuple[str, Row | UserError]]:
        rows = _standard_rows(self, path, split, revision)
        if self.where:
            rows = chosen(rows, self.where, path, self.group_by, self.left_out)
        yield from shaped(rows, path, self.columns, self.group_by, self.alone)

    def files(self, path: str | None) -> Sequence[Path]:
        """Return the local files; none for a hub dataset, which its commit identifies."""
        local = Path(str(path))
        if path in SHIPPED:
            return SHIPPED[path].files()
        return [local] if local.is_file() else sorted(file for file in local.rglob("*") if file.is_file())


def _standard_rows(
    source: StandardSource, path: str | None, split: str, revision: str | None
) -> Iterator[tuple[str, Row | UserError]]:
    assert path is not None
    local = Path(path)
    if path in SHIPPED or local.is_file():
        _check_split(split, ["train"], path)
        yield from SHIPPED[path].rows() if path in SHIPPED else file_rows(local, source.texts, source.delimiter)
    elif splits := _files_of_splits(local):
        if source.subset:
            raise UserError(
                f"data.subset={source.subset}: {path} has no card that lists the files of configurations; leave it out"
            )
        _check_split(split, splits, path)
        for file in splits[split]:
            yield from file_rows(file, source.texts, source.delimiter, file.relative_to(local).as_posix())
    else:
        if source.delimiter:
            raise UserError(
                f"data.delimiter={source.delimiter}: {path} is neither a CSV file nor a folder of CSV files; name the file"
            )
        name = local.name if local.exists() else path
        yield from numbered(_load_dataset(source, path, split, revision), f"{name} ({split})")


_KINDS = ({".csv", ".tsv"}, {".jsonl", ".ndjson"}, {".parquet"})
_TALKS = (".txt", ".json")  # files that may hold a conversation each


def _files_of_splits(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split of a folder whose data are files of one kind of rows.

    The words in a file's name, or else in its folders' names, tell its split. Files without such a word are training data.
    For others the result is {}: folders with a card that lists files or with JSON but for conversations, and what the datasets
    library has saved.

    Raises:
        UserError: if some files are called training data and others belong to no split.
    """
    files = _data_files_of(folder) or _talks_of(folder)
    kinds = {kind_of(file) for file in files}
    has_json = any(kind_of(file) == ".json" for file in _visible_files(folder)) and kinds != {".json"}
    if has_json or _card_lists_files(folder) or not any(kinds <= kind for kind in (*_KINDS, {".txt"}, {".json"})):
        return {}
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    unnamed = splits.pop("", [])
    if unnamed and "train" in splits:
        _refuse_unread(folder, unnamed, "is in no split, because other files are called train")
    return {"train": unnamed, **splits} if unnamed else splits


def _refuse_unread(folder: Path, files: Sequence[Path], why: str) -> None:
    """Refuse a folder of which some files would not be read.

    Raises:
        UserError: naming the first file.
    """
    first = words(str(files[0].relative_to(folder)))
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    raise UserError(f"{folder}: {first}{more} {why}; move it away, or name the files you want in data.mix")


def _card_lists_files(folder: Path) -> bool:
    """Return True if the folder's card says which files belong to which split or configuration."""
    card = folder / "README.md"
    return (
        card.is_file()
        and re.search("data_files|data_dir", card.read_text(encoding="utf-8", errors="replace")) is not None
    )


def _data_files_of(folder: Path) -> list[Path]:
    """Return the files of a folder whose names end as those of data do, but for .json, which often holds settings."""
    kinds = set[str]().union(*_KINDS)
    return [file for file in _visible_files(folder) if kinds & {suffix.lower() for suffix in file.suffixes}]


def _talks_of(folder: Path) -> list[Path]:
    """Return the files of a folder without other data that hold a conversation each: all of one kind, or none."""
    for kind in _TALKS:
        files = [file for file in _visible_files(folder) if kind_of(file) == kind]
        if files and (kind == ".txt" or all(map(_is_talk, files[:2]))):
            return files
    return []


def _is_talk(file: Path) -> bool:
    """Return True for a JSON file that holds a conversation, and no list of rows."""
    try:
        rows = [row for _, row in file_rows(file, (), None)]
    except UserError:
        return False
    return len(rows) == 1 and isinstance(rows[0], Mapping) and bool(first_of(rows[0], TALKS))


def _visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder, but for hidden ones and those of hidden folders, such as the hub's `.cache`.

    Raises:
        OSError: for a folder that cannot be read, because its rows would be missing.
    """

    def refuse(error: OSError) -> None:
        raise error

    files = list[Path]()
    for place, folders, names in os.walk(folder, onerror=refuse if folder.is_dir() else None):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _split_of(file: Path) -> str:
    for part in reversed(file.parts):
        words_of_name = {*re.split(r"[^a-z]+", part.lower())}
        if split := next((split for split, names in _SPLITS.items() if names & words_of_name), ""):
            return split
    return ""


def source_of(data: DictConfig) -> Source:
    """Return the source that reads the rows of a checked `data` group."""
    if data.get("_target_"):
        source: Source = build_section(data, "data")
        return source
    given = {key: data.get(key) for key in ("columns", "delimiter", "group_by", "subset", "where", "html")}
    return StandardSource(**given, alone=not (data.mix or data.eval_path), advises=not data.mix)


def load_examples(
    path: str | None,
    split: str,
    revision: str | None,
    source: Source | None = None,
    rating_range: Sequence[float] = (1, 5),
    dropped: list[str] | None = None,
    unread: set[str] | None = None,
) -> list[Example]:
    """Load every row of `path` with `source`, by default the standard source.

    With the list `dropped`, unusable rows are skipped, even all of them, and their reasons are appended to it. The names
    of columns that are not read are added to the set `unread`.

    Raises:
        UserError: for a missing file or split, an empty dataset, or an unusable row (naming file and row).
    """
    source, examples, advice = source or StandardSource(), list[Example](), ""
    for where, row in read_rows(source, path, split, revision):
        try:
            if isinstance(row, UserError):
                raise row
            examples.append(parse_row(row, where, rating_range, source.html))
            if unread is not None:
                unread |= unread_columns(row)
        except UserError as error:
            if isinstance(error, UnknownColumns) and not advice:
                advice = advice_on(source, path, split, revision)
                error = UserError(f"{error}{advice}")
            if dropped is None:
                raise error from None
            dropped.append(str(error))
    if not examples and not dropped:
        raise UserError(f"{path or source.name}: the dataset is empty")
    if unread is not None:
        unread -= {*(source.where or {})}
    return _labelled(examples, dropped)


def _labelled(examples: list[Example], dropped: list[str] | None) -> list[Example]:
    """Return the rows without those that lack a label though others have one, because such a reply may be a bad one.

    Raises:
        UserError: naming the first of them, without the list `dropped`.
    """
    lacking = {id(row) for row in examples if row.label is None and len(row.replies) == 1 and not row.scores}
    if not lacking or all(row.label is None for row in examples):
        return examples
    reasons = [f"{row.where}: {_WITHOUT_LABEL}" for row in examples if id(row) in lacking]
    if dropped is None:
        raise UserError(f"{reasons[0]}, or drop {with_noun(len(lacking), 'such row')} by data.bad_rows=drop")
    dropped += reasons
    return [row for row in examples if id(row) not in lacking]


def advice_on(
    source: Source,
    path: str | None,
    split: str,
    revision: str | None,
    unread: set[str] | None = None,
    has_replies: bool = False,
) -> str:
    """Return what `likely_columns` says of all rows that `data.where` chooses; an empty text for a source without such keys."""
    if not isinstance(source, StandardSource) or not source.advises:
        return ""
    if unread is not None and not may_be_texts(unread, has_replies):
        return ""
    rows = _standard_rows(source, path, split, revision)
    if source.where:
        rows = chosen(rows, source.where, path, source.group_by, set())
    return likely_columns([(where, row) for where, row in rows if not isinstance(row, UserError)], unread, has_replies)


def read_rows(
    source: Source, path: str | None, split: str, revision: str | None
) -> Iterator[tuple[str, Row | UserError]]:
    """Yield the rows of a source, checked for the form that Source requires, because a user may have written it.

    Rows are streamed from JSONL and parquet files, and from files that the datasets library maps; JSON is read whole.

    Raises:
        UserError: for data that cannot be read.
    """
    wanted = "pairs of a row's place and the row, a mapping of columns"
    try:
        rows = source.rows(path, split, revision)
        if not isinstance(rows, Iterable):
            raise wrong_return(source, "rows", rows, wanted)
        for item in rows:
            match item:
                case (str(where), (Mapping() | UserError()) as row):
                    yield where, row
                case _:
                    raise wrong_return(source, "rows", item, wanted)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        place = getattr(error, "filename", None) or path or source.name
        raise UserError(f"{place}: cannot be read ({reason})") from error


def _load_dataset(source: StandardSource, path: str, split: str, revision: str | None) -> Any:
    """Return a split of a saved `datasets` folder, a folder of data files, or a hub dataset."""
    folder, subset = Path(path), source.subset
    for file in _visible_files(folder):
        check_sizes(file)

    def converted(library: Any) -> Any:
        where = path if folder.exists() else dataset_location(path, revision)
        names = library.get_dataset_config_names(where, revision=revision)
        chosen = subset or library.get_dataset_default_config_name(where, revision=revision)
        if chosen not in names:
            raise UserError(
                f"{path}: its configurations are {', '.join(sorted(names))}: add one of them as data.subset=NAME"
            )
        config = library.load_dataset_builder(where, chosen, revision=revision).config
        if folder.is_dir() and config.data_files and not _card_lists_files(folder):
            read = {str(Path(file).resolve()) for files in config.data_files.values() for file in files}
            unread = [file for file in _data_files_of(folder) if str(file.resolve()) not in read]
            if unread:
                _refuse_unread(folder, unread, "would not be read beside the others, whose kind or split is another")
        options = _EMPTY_CELLS if hasattr(config, "keep_default_na") else {}  # only the reader of CSV files has them
        return _converted(path, source.copies, where, chosen, revision=revision, **options)

    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        splits = _load(path, lambda library: library.load_from_disk(path))
    else:
        splits = _load(path, converted)
    _check_split(split, splits, path)
    return splits[split]


def _load(path: str, load: Callable[[Any], Any]) -> Any:
    """Return the splits that `load` gets from the datasets library for `path`."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it would log the text of errors that it also raises
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # a README of the user's own is no card
    try:
        loaded = load(datasets)
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, datasets.data_files.EmptyDatasetError | datasets.exceptions.DataFilesNotFoundError):
            raise UserError(f"{path}: this folder holds no data file") from error
        hint = "; if its files have different columns, name one of them" if Path(path).is_dir() else ""
        raise UserError(f"{path}: cannot be loaded as a dataset ({_reason(error)}){hint}") from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}


def _converted(path: str, copies: Path | None, *given: str, **options: Any) -> Any:
    """Call `datasets.load_dataset`, with a private cache if `path` is private.

    With `copies`, the copy of a local `path` goes into that folder instead.
    """
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    files = StandardSource().files(path) if Path(path).exists() else []
    mask = mask_of(files, cache)
    is_private = bool(mask & ~own_umask())
    place = cache / f"private-{os.getuid()}" if is_private else cache  # other users may share the cache
    if copies and Path(path).exists():
        place = copies
    if Path(path).is_dir():  # if a card lists data_files, datasets confuses folders of one name
        place /= f"folder-{_mark(files)}"
    with restricted(mask) if is_private else contextlib.nullcontext():
        return datasets.load_dataset(*given, **options, cache_dir=str(place))


def _mark(files: Sequence[Path]) -> str:
    """Return a short hash that changes with the files' paths, sizes and modification times."""
    marks = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(marks).encode()).hexdigest()[:16]


def _reason(error: BaseException) -> str:
    """Return one line without the text after a colon, because some libraries quote data there."""
    root = error.__cause__ or error
    message = re.split(r"[:\n]", str(root))[0]
    return f"{type(root).__name__}: {words(message[:200])}"


def _check_split(split: str, splits: Iterable[str], path: str) -> None:
    if split not in splits:
        raise UserError(
            f"{path} has no split {split}; its splits are {', '.join(splits)} (data.split, data.eval_split)"
        )
