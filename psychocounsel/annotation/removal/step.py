"""`annotate remove=ids.txt` permanently deletes speeches from every table, journal and cache of a directory.

The tombstones are written first, and everything else is derived from them. Therefore a removal that was killed is finished
by the same command, or by any later command on the directory (`finish`).
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from psychocounsel.annotation.card import step as card
from psychocounsel.annotation.removal.cached_copies import remove_copies
from psychocounsel.annotation.removal.records import renew_records
from psychocounsel.annotation.removal.row_filter import doubles_of, drop_rows, speeches_of
from psychocounsel.annotation.removal.tombstones import Tombstones
from psychocounsel.annotation.removal.trained_on import TEXTS_TOO, UNDONE, users_of
from psychocounsel.errors import UserError
from psychocounsel.experts.review.forgetting import forget_speeches, refuse_served
from psychocounsel.remote.journal import forget
from psychocounsel.rundir.paths import AnnotationDir, ReviewDir
from psychocounsel.steps.context import StepContext
from psychocounsel.storage.files import read_mapping, remove_unfinished, write_json

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
    asked = _read_ids(Path(context.config.remove).expanduser())
    tombstones = Tombstones.of(files)
    known = {speech for path in _tables(files) for speech in speeches_of(path) if speech in asked}
    unknown = [speech for speech in asked if speech not in known and speech not in tombstones]
    if unknown:
        raise UserError(
            f"remove={context.config.remove}: {len(unknown)} of {len(asked)} ids belong to no speech in {files.path} (first in "
            f"line {asked[unknown[0]]}), so nothing was removed: ids are the column speech of {files.speeches.name}, "
            "or ID in the dataset"
        )
    files.steps.mkdir(exist_ok=True)
    # Written before the tombstones: from now on, every command finishes the removal.
    write_json(files.step(RECORD), {"done": False})
    tombstones.add({*asked, *(double for path in _tables(files) for double in doubles_of(path, asked))})
    return finish(context)


def finish(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Finish an interrupted removal, as every run does first; returns its counts (see `remove`), or {} without one."""
    files = context.files
    if read_mapping(files.step(RECORD)).get("done", True):
        return {}
    tombstones = Tombstones.of(files)
    found = {"removed": len(tombstones), **_clear(context, tombstones)}
    dataset_is_there = any((files.dataset / name).exists() for name in card.SPLITS.values())
    renew_records(files, tombstones)
    if dataset_is_there:
        card.run(context)
    users = users_of(files.dataset, Path(context.config.paths.output))
    write_json(files.step(RECORD), {"done": True, "removed": len(tombstones), "used_by": users, "said": UNDONE})
    for line in _report(context, found, users):
        context.say(line)
    return found


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
        _cut_half_lines(folder)
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
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.setdefault(line.strip(), number)
    if not found:
        raise UserError(f"remove={path}: holds no id; write one id per line")
    return found


def _tables(files: AnnotationDir) -> list[Path]:
    """Return every table of the directory, including tables of shards and parts of steps."""
    return sorted(path for path in files.path.rglob("*.parquet") if not path.name.startswith("."))


def _clear_sample(files: AnnotationDir, tombstones: Tombstones) -> None:
    """Delete the sample of speeches for checking by hand if it holds a removed speech, or no ids at all."""
    if files.identifier_sample.exists():
        ids = _ID.findall(files.identifier_sample.read_text())
        if not ids or any(speech in tombstones for speech in ids):
            files.identifier_sample.unlink()


def _cut_half_lines(folder: Path) -> None:
    """Cut each journal file after its last complete line, because a killed writer may have left part of an answer."""
    for path in folder.glob("*.jsonl"):
        with path.open("rb+") as file:
            end = file.seek(0, 2)
            while end and not _ends_line(file, end):
                end -= 1
            file.truncate(end)


def _ends_line(file: Any, end: int) -> bool:
    file.seek(end - 1)
    return bool(file.read(1) == b"\n")


def _report(context: StepContext[AnnotationDir], found: dict[str, int], users: dict[str, list[str]]) -> Iterator[str]:
    yield (
        f"removed: {found['rows']} table rows, {found['answers']} journal answers, {found['copies']} cached copies; in total "
        f"{found['removed']} speeches, near duplicates included, are permanently removed from {context.files.path}"
    )
    yield "The speeches remain in sources, backups and your own copies: delete them there yourself."
    yield from _users(users, context.config.paths.output)


def _users(users: dict[str, list[str]], output: str) -> Iterable[str]:
    if not users:
        yield f"No run below {output} used the dataset; runs and exports elsewhere were not checked."
        return
    yield f"Runs below {output} that used the dataset or a model trained on it ({len(users)}):"
    for run, weights in users.items():
        yield f"  {run}" + (f": weights in {', '.join(Path(each).name for each in weights)}" if weights else "")
    yield TEXTS_TOO
    yield UNDONE
