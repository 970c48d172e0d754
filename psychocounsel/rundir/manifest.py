"""Manifest of a checkpoint: shows if the checkpoint is complete and undamaged. No torch here, because submission reads it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import CheckpointDir, RunDir
from psychocounsel.storage.files import DamagedFile, read_mapping, write_json
from psychocounsel.storage.hashes import FileMark, mark_of

_WEIGHTS_ALONE = "weights_alone"  # key of a checkpoint that `jobs archive` reduced to weights


def write_manifest(folder: Path, marks: Mapping[str, FileMark], weights_alone: bool = False) -> None:
    """Write the manifest of the finished checkpoint in `folder`; `weights_alone`: it has no optimizer state.

    `marks` are the sizes and hashes of its files, by relative path, taken while they were written.
    """
    content = {"files": dict(sorted(marks.items()))} | ({_WEIGHTS_ALONE: True} if weights_alone else {})
    write_json(CheckpointDir(folder).manifest, {**content, "sha256": _sum(content)})


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    """Return the manifest; {} if it is missing, damaged, or written by another version of the program."""
    try:
        content = read_mapping(CheckpointDir(folder).manifest)
        intact = content.pop("sha256", None) == _sum(content)
        files = {name: FileMark(bytes=mark["bytes"], sha256=mark["sha256"]) for name, mark in content["files"].items()}
    except (OSError, DamagedFile, TypeError, KeyError, AttributeError):
        return {}
    return content | {"files": files} if intact else {}


def file_marks(folder: Path) -> dict[str, FileMark]:
    """Return size and hash of each file of a checkpoint by relative path, from its manifest."""
    return dict(_read(folder).get("files", {}))


def weights_marks(folder: Path, engine: str = "") -> dict[str, FileMark]:
    """Return the marks of all files except optimizer state; with `engine`, only those of this engine."""
    is_optimizer = CheckpointDir(folder).is_optimizer
    marks = {name: mark for name, mark in file_marks(folder).items() if not is_optimizer(name)}
    return {name: mark for name, mark in marks.items() if name.startswith(f"{engine}/" if engine else "")}


def damage(folder: Path, marks: Mapping[str, FileMark]) -> str | None:
    """Return the fault of the first file in `folder` that does not match its mark; None if all match."""
    for name in sorted(marks):
        try:
            if mark_of(folder / name) != marks[name]:
                return f"{name} differs from what was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def is_complete(folder: Path) -> bool:
    """Return False if a file is missing or has another size (killed writer, purged scratch disk); content is not read."""
    manifest = CheckpointDir(folder).manifest.name
    try:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != manifest]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    except OSError:
        return False
    marks = file_marks(folder)
    return bool(marks) and sizes == {name: mark["bytes"] for name, mark in marks.items()}


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Return all complete checkpoints, oldest first."""
    return [checkpoint.path for checkpoint in RunDir(run_dir).checkpoint_dirs() if is_complete(checkpoint.path)]


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest complete checkpoint, or None."""
    newest_first = (checkpoint.path for checkpoint in reversed(RunDir(run_dir).checkpoint_dirs()))
    return next(filter(is_complete, newest_first), None)


def check_can_go_on(run_dir: Path) -> None:
    """Raise if the run cannot resume from its newest complete checkpoint.

    Raises:
        UserError: if the checkpoint was archived without optimizer state, or its loop.json is undamaged but not a JSON
            mapping.
    """
    path = latest_checkpoint(run_dir)
    if path is None:
        return
    loop = CheckpointDir(path).loop
    if damage(path, {loop.name: file_marks(path)[loop.name]}) is None:  # a damaged one is skipped on loading
        read_mapping(loop)
    if _read(path).get(_WEIGHTS_ALONE):
        step = CheckpointDir(path).step
        raise UserError(
            f"{run_dir}: is an archive without optimizer state and cannot resume; resume the original, or start a run "
            f"from the model that `psychocounsel export {quote(str(run_dir))} step={step}` writes (model.path=...)"
        )
