"""`annotate remove=ids.txt` permanently deletes speeches from every table, journal and cache of a directory.

The tombstones are written first, and everything else is derived from them. Therefore a removal that was killed is finished
by the same command, or by any later command on the directory (`finish`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from psychocounsel.annotation import card
from psychocounsel.annotation.counts import pair_counts
from psychocounsel.annotation.scores.votes import ABOUT, COLUMNS, vote_figures
from psychocounsel.annotation.settings import SPLITS
from psychocounsel.annotation.speeches.choice import tombstone
from psychocounsel.data import tokenised_cache
from psychocounsel.errors import UserError
from psychocounsel.experts.review.forgetting import forget_speeches, refuse_served
from psychocounsel.remote.journal import forget
from psychocounsel.rundir.paths import AnnotationDir, ReviewDir, RunDir
from psychocounsel.rundir.run_config import is_run
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import by_speech, joined, opened, rows_of
from psychocounsel.storage.files import (
    expanded,
    read_mapping,
    remove_unfinished,
    replacing,
    write_atomically,
    write_json,
)
from psychocounsel.storage.yaml_limits import Loader, bounded

# The removal

RECORD = "removal"  # file name among the step records
_ID = re.compile(r"\b[0-9a-f]{16}\b")


def remove(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Remove the speeches whose ids are in the file `config.remove`, one per line, and list the runs that used them.

    Near duplicates of these speeches are removed as well, because otherwise the next run could keep them instead.

    Returns:
        `removed`: the number of speeches removed so far, including earlier removals and near duplicates; `rows`, `answers`,
            `copies`: the number of each deleted now.

    Raises:
        UserError: if an id is in no table and was not removed before, if the file holds no ids, or while the page of
            this directory's expert review is served; then nothing is changed.
    """
    files = context.files
    refuse_served(ReviewDir.of(files.path))
    ids = _read_ids(expanded(context.config.remove))
    tombstones = Tombstones.of(files)
    known = {speech for path in _tables(files) for speech in speeches_of(path) if speech in ids}
    unknown = [speech for speech in ids if speech not in known and speech not in tombstones]
    if unknown:
        raise UserError(
            f"remove={context.config.remove}: {len(unknown)} of {len(ids)} ids belong to no speech in {files.path} (first in "
            f"line {ids[unknown[0]]}), so nothing was removed: ids are the column speech of {files.speeches.name}, "
            "or ID in the dataset"
        )
    files.steps.mkdir(exist_ok=True)
    # Written before the tombstones: from now on, every command finishes the removal.
    write_json(files.step(RECORD), {"done": False})
    tombstones.add({*ids, *(duplicate for path in _tables(files) for duplicate in duplicates_of(path, ids))})
    return finish(context)


def finish(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Finish an interrupted removal, as every run does first; returns its counts (see `remove`), or {} without one."""
    files = context.files
    if read_mapping(files.step(RECORD)).get("done", True):
        return {}
    tombstones = Tombstones.of(files)
    counts = {"removed": len(tombstones), **_clear(context, tombstones)}
    has_dataset = any((files.dataset / name).exists() for name in SPLITS.values())
    renew_records(files, tombstones)
    if has_dataset:
        card.run(context)
    users = users_of(files.dataset, Path(context.config.paths.output))
    write_json(
        files.step(RECORD), {"done": True, "removed": len(tombstones), "used_by": users, "said": WEIGHTS_UNCHANGED}
    )
    for line in _report(context, counts, users):
        context.say(line)
    return counts


def _clear(context: StepContext[AnnotationDir], tombstones: Tombstones) -> dict[str, int]:
    """Delete from everything except records and card; returns the number of rows, answers and cached copies deleted."""
    files, is_removed = context.files, tombstones.__contains__
    remove_unfinished(files.path)  # partial tables of killed steps
    _clear_sample(files, tombstones)
    rows = 0
    for path in context.bar(_tables(files), "tables"):
        rows += drop_rows(path, is_removed)
    answers = 0
    for folder in sorted({path.parent for path in files.answers.rglob("*.jsonl")}):
        answers += forget(folder, is_removed)
    copies = remove_copies(files.dataset, Path(context.config.paths.cache), is_removed)
    if items := forget_speeches(ReviewDir.of(files.path), is_removed):
        context.say(f"expert review: {items} items removed, with all their answers")
    return {"rows": rows, "answers": answers, "copies": copies}


def _read_ids(path: Path) -> dict[str, int]:
    """Return each id with the number of its first line in the file.

    Raises:
        UserError: if the file cannot be read or holds no id.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"remove={path}: cannot be read as text") from error
    ids: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            ids.setdefault(line.strip(), number)
    if not ids:
        raise UserError(f"remove={path}: holds no id; write one id per line")
    return ids


def _tables(files: AnnotationDir) -> list[Path]:
    """Return every table of the directory, including tables of shards and parts of steps."""
    return sorted(path for path in files.path.rglob("*.parquet") if not path.name.startswith("."))


def _clear_sample(files: AnnotationDir, tombstones: Tombstones) -> None:
    """Delete the sample of speeches for checking by hand if it holds a removed speech, or no ids at all."""
    if files.identifier_sample.exists():
        ids = _ID.findall(files.identifier_sample.read_text())
        if not ids or any(speech in tombstones for speech in ids):
            files.identifier_sample.unlink()


def _report(context: StepContext[AnnotationDir], counts: dict[str, int], users: dict[str, list[str]]) -> Iterator[str]:
    yield (
        f"removed: {counts['rows']} table rows, {counts['answers']} journal answers, {counts['copies']} cached copies; in total "
        f"{counts['removed']} speeches, near duplicates included, are permanently removed from {context.files.path}"
    )
    yield "The speeches remain in sources, backups and your own copies: delete them there yourself."
    yield from _users(users, context.config.paths.output)


def _users(users: dict[str, list[str]], output: str) -> Iterable[str]:
    if not users:
        yield f"No run below {output} used the dataset; runs and exports elsewhere were not checked."
        return
    yield f"Runs below {output} that used the dataset or a model trained on it ({len(users)}):"
    for run, weights in users.items():
        yield f"  {run}" + (f": weights in {', '.join(Path(folder).name for folder in weights)}" if weights else "")
    yield TEXTS_IN_RUNS
    yield WEIGHTS_UNCHANGED


# Tombstones


class Tombstones:
    """The set of removed speeches of a directory; `speech in tombstones` tests an id.

    Near duplicates of a removed speech have their own tombstones, so none of them takes its place.
    """

    def __init__(self, path: Path, digests: Iterable[str] = ()) -> None:
        self.path, self.digests = path, set(digests)

    @classmethod
    def of(cls, files: AnnotationDir) -> Tombstones:
        """Return the tombstones of a directory; empty if nothing was ever removed."""
        lines = files.removed.read_text().split() if files.removed.exists() else []
        return cls(files.removed, lines)

    def __contains__(self, speech: str) -> bool:
        return bool(self.digests) and tombstone(speech) in self.digests

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, speeches: Iterable[str]) -> None:
        """Add speeches; the file is on disk when this returns."""
        self.digests |= {tombstone(speech) for speech in speeches}
        write_atomically(self.path, "".join(f"{digest}\n" for digest in sorted(self.digests)))


# Rows of given speeches in parquet tables

_COLUMNS = ("speech", "ID", "of")  # columns with ids of speeches; `of` is the speech that a dropped one duplicates
_ROWS = 1 << 14


def speeches_of(path: Path) -> Iterator[str]:
    """Yield the ids of the speeches in a table, each at least once; nothing for a table without ids.

    Raises:
        UserError: if the file is not a complete parquet file.
    """
    with opened(path) as table:
        columns = id_columns(table.schema_arrow)
        for batch in table.iter_batches(_ROWS, columns=columns) if columns else ():
            for column in columns:
                yield from (speech for speech in pc.unique(batch[column]).to_pylist() if speech is not None)


def id_columns(schema: pa.Schema) -> list[str]:
    """Return the columns with ids of speeches; most tables have one."""
    return [name for name in _COLUMNS if name in schema.names and pa.types.is_string(schema.field(name).type)]


def duplicates_of(path: Path, speeches: Container[str]) -> Iterator[str]:
    """Yield the ids of speeches that were dropped as duplicates of `speeches`; nothing for tables without dropped speeches."""
    if {"speech", "of"} <= {*id_columns(pq.read_schema(path))}:
        yield from (row["speech"] for row in rows_of(path, ["speech", "of"]) if row["of"] in speeches and row["speech"])


def drop_rows(path: Path, is_removed: Callable[[str], bool]) -> int:
    """Delete the rows of removed speeches from a table; returns their number. The other rows keep their order and values.

    A table without such rows is not rewritten. The new file has the permissions of the old one.

    Raises:
        UserError: if the file is not a complete parquet file.
    """
    if not any(map(is_removed, speeches_of(path))):
        return 0
    dropped = 0
    with replacing(path) as temporary, pq.ParquetFile(path) as file:
        columns = id_columns(file.schema_arrow)
        with pq.ParquetWriter(temporary, file.schema_arrow, compression="zstd") as writer:
            for batch in file.iter_batches(_ROWS):
                rest = batch
                for column in columns:
                    gone = [speech for speech in pc.unique(rest[column]).to_pylist() if speech and is_removed(speech)]
                    rest = rest.filter(pc.invert(pc.is_in(rest[column], pa.array(gone, pa.string()))))
                dropped += batch.num_rows - rest.num_rows
                if rest.num_rows:
                    writer.write_batch(rest)
        os.chmod(temporary, path.stat().st_mode & 0o777)
    return dropped


# Cached copies of a dataset


def remove_copies(dataset: Path, cache: Path, is_removed: Callable[[str], bool]) -> int:
    """Delete tokenised copies of `dataset`, and `datasets` tables with a removed speech; returns their number."""
    tokenised = [entry for entry in tokenised_cache.entries(cache) if _names(entry.of, dataset.resolve())]
    for file in (file for entry in tokenised for file in entry.files):
        file.unlink(missing_ok=True)
    converted = {file.parent for file in _arrow_files() if any(map(is_removed, _speeches(file)))}
    for folder in converted:
        shutil.rmtree(folder)
    return len(tokenised) + len(converted)


def _names(text: str, dataset: Path) -> bool:
    """Return True if a cache entry was tokenised from `dataset` or a file in it; `text` lists the entry's sources."""
    return re.search(rf"(^|, ){re.escape(str(dataset))}(/[^:]*)?(: |, )", text) is not None


def _arrow_files() -> list[Path]:
    """Return all tables in the cache of `datasets`, because their folders do not show which dataset they come from."""
    import datasets

    return sorted(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow"))


def _speeches(file: Path) -> Iterator[str]:
    """Yield the ids of speeches in a table of `datasets`; a damaged table is read as far as possible."""
    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as reader:
            columns = id_columns(reader.schema)
            for batch in reader if columns else ():
                for column in columns:
                    yield from (speech for speech in pc.unique(batch[column]).to_pylist() if speech is not None)
    except (OSError, pa.ArrowException):
        return


# Runs that trained on a dataset, directly or through a model

WEIGHTS_UNCHANGED = (
    "Weights are not changed: models trained on the removed speeches keep what they learned from them. Delete these models or "
    "train them again."
)
_FILES = RunDir(Path())
TEXTS_IN_RUNS = (
    f"Run folders may also hold texts of the removed speeches ({_FILES.rounds}/, {_FILES.failure}/): "
    "delete what you do not need."
)
_OTHERS = ("run_dir", "sweep_dir", "after", "paths", "out")  # keys of folders that a run writes or waits for


def users_of(dataset: Path, output: Path) -> dict[str, list[str]]:
    """Return the runs below `output` that read `dataset` or a model of such a run, each with its existing weights.

    Runs elsewhere and copies of the dataset are not found.
    """
    configs = {run: list(_strings(_config(run))) for run in _runs(output)}
    places, users = [dataset.resolve()], dict[str, list[str]]()
    while new := [run for run, texts in configs.items() if str(run) not in users and _mentions(texts, places)]:
        for run in sorted(new):
            users[str(run)] = [str(folder) for folder in _weights(run)]
            places.append(run.resolve())
    return users


def _runs(folder: Path) -> Iterator[Path]:
    """Yield every run directory at or below `folder`, except annotate directories; runs contain no other runs."""
    for place, folders, _ in os.walk(folder):
        run = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if is_run(run):
            folders.clear()
            if not AnnotationDir(run).answers.exists():
                yield run


def _config(run: Path) -> Any:
    """Return the run's configuration without folders that it writes to or waits for."""
    try:
        content = yaml.load(bounded(RunDir(run).config.read_text(errors="replace")), Loader)
    except (OSError, yaml.YAMLError):
        return None
    return {key: value for key, value in content.items() if key not in _OTHERS} if isinstance(content, dict) else None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _mentions(texts: list[str], places: list[Path]) -> bool:
    paths = [Path(os.path.realpath(text)) for text in texts if text.startswith("/")]
    return any(path.is_relative_to(place) for path in paths for place in places)


def _weights(run: Path) -> Iterator[Path]:
    files = RunDir(run)
    yield from (folder for folder in (files.model, files.export, files.checkpoints) if folder.is_dir())


# Records of steps, with counts of the tables as they are now


def renew_records(files: AnnotationDir, tombstones: Tombstones) -> None:
    """Update the records of finished steps: table rows, the number of removed speeches, figures of ratings and pairs.

    All other figures, such as outcomes of replies and dropped rows, stay as they were when the step ran.
    """
    tables = {"speeches": files.speeches, "replies": files.replies, "scores": files.votes}
    renewed = {"scores": _of_votes, "pairs": _of_pairs}
    for step in (*tables, "pairs"):
        record = read_mapping(files.step(step))
        if not record:
            continue
        record["removed_speeches"] = len(tombstones)
        if step in tables and tables[step].exists():
            record["rows"] = int(pq.read_metadata(tables[step]).num_rows)
        if step in renewed:
            record["figures"] = {**record.get("figures", {}), **renewed[step](files, record.get("figures", {}))}
        write_json(files.step(step), record)


def _of_votes(files: AnnotationDir, before: dict[str, Any]) -> dict[str, Any]:
    if not (files.votes.exists() and files.speeches.exists()):
        return {}
    speeches, votes = by_speech(files.speeches, ABOUT), by_speech(files.votes, COLUMNS)
    replies = by_speech(files.replies, ["reply"]) if files.replies.exists() else []
    # From the record, because an annotator that was never asked has no votes.
    annotators = {*before.get("annotators", {}), *before.get("skipped", {})}
    annotated = (
        (rows[0], [row["reply"] for row in texts if row["reply"] is not None], ratings)
        for rows, texts, ratings in joined(speeches, replies, votes)
    )
    return vote_figures(annotated, sorted(annotators))


def _of_pairs(files: AnnotationDir, before: dict[str, Any]) -> dict[str, Any]:
    figures = {}
    for split, name in SPLITS.items():
        counts = pair_counts(files.dataset / name)
        if counts is not None:
            tiers = {tier: counts.agreement[tier] for tier in before.get(split, {}).get("agreement", {})}
            figures[split] = {**before.get(split, {}), "pairs": counts.rows, "agreement": tiers}
    return figures
