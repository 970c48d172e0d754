"""A checkpoint's manifest tells whether the checkpoint is complete and undamaged. No torch here, as submission reads it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import CheckpointDir, RunDir
from psychocounsel.storage.files import DamagedFile, read_mapping, write_json
from psychocounsel.storage.hashes import FileMark, mark_of

_WEIGHTS_ALONE = "weights_alone"  # in the manifest of what `jobs archive` keeps of a checkpoint


def write_manifest(folder: Path, marks: Mapping[str, FileMark], weights_alone: bool = False) -> None:
    """Say of the finished checkpoint in `folder` what it consists of; `weights_alone`: without optimizer state.

    `marks` are those of its files, by relative path, taken when they were written.
    """
    content = {"files": dict(sorted(marks.items()))} | ({_WEIGHTS_ALONE: True} if weights_alone else {})
    write_json(CheckpointDir(folder).manifest, {**content, "sha256": _sum(content)})


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    """The manifest; {} where there is none, or it is damaged, or of another version of the program."""
    try:
        content = read_mapping(CheckpointDir(folder).manifest)
        intact = content.pop("sha256", None) == _sum(content)
        files = {name: FileMark(bytes=mark["bytes"], sha256=mark["sha256"]) for name, mark in content["files"].items()}
    except (OSError, DamagedFile, TypeError, KeyError, AttributeError):
        return {}
    return content | {"files": files} if intact else {}


def file_marks(folder: Path) -> dict[str, FileMark]:
    """Relative path -> size and hash of each file of a checkpoint, as its manifest has them."""
    return dict(_read(folder).get("files", {}))


def weights_marks(folder: Path, engine: str = "") -> dict[str, FileMark]:
    """The marks of all files but those of optimizer state; with `engine`, of this engine's alone."""
    is_optimizer = CheckpointDir(folder).is_optimizer
    marks = {name: mark for name, mark in file_marks(folder).items() if not is_optimizer(name)}
    return {name: mark for name, mark in marks.items() if name.startswith(f"{engine}/" if engine else "")}


def damage(folder: Path, marks: Mapping[str, FileMark]) -> str | None:
    """What is wrong with the first file in `folder` that does not have its mark; None if nothing."""
    for name in sorted(marks):
        try:
            if mark_of(folder / name) != marks[name]:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def is_complete(folder: Path) -> bool:
    """False where a file is missing or of another size: a killed writer, or a purged scratch disk. Reads no content."""
    manifest = CheckpointDir(folder).manifest.name
    try:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != manifest]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    except OSError:
        return False
    marks = file_marks(folder)
    return bool(marks) and sizes == {name: mark["bytes"] for name, mark in marks.items()}


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return [each.path for each in RunDir(run_dir).checkpoint_dirs() if is_complete(each.path)]


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    newest_first = (each.path for each in reversed(RunDir(run_dir).checkpoint_dirs()))
    return next(filter(is_complete, newest_first), None)


def check_can_go_on(run_dir: Path) -> None:
    """Refuse an archive, whose newest whole checkpoint has no optimizer state, and what others have written as loop.json.

    Raises:
        UserError: if it is one.
    """
    path = latest_checkpoint(run_dir)
    if path is None:
        return
    loop = CheckpointDir(path).loop
    if damage(path, {loop.name: file_marks(path)[loop.name]}) is None:  # a damaged one is passed over
        read_mapping(loop)
    if _read(path).get(_WEIGHTS_ALONE):
        step = CheckpointDir(path).step
        raise UserError(
            f"{run_dir}: is an archive, without optimizer state, and cannot go on; go on in the original, or begin a run "
            f"with model.path= what `python -m psychocounsel.export {run_dir} step={step}` writes"
        )
