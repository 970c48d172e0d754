"""Which checkpoints of a run are whole. Torch-free: submission asks too."""

from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import CheckpointDir, RunDir
from psychocounsel.storage.files import read_json, write_json

_WEIGHTS_ALONE = "weights_alone"  # in the manifest of what `jobs archive` keeps of a checkpoint


def write_manifest(folder: Path, weights_alone: bool = False) -> None:
    """Say of the finished checkpoint in `folder` what it consists of; `weights_alone`: without optimizer state."""
    content = {"files": file_sizes(folder)} | ({_WEIGHTS_ALONE: True} if weights_alone else {})
    write_json(CheckpointDir(folder).manifest, content)


def file_sizes(folder: Path) -> dict[str, int]:
    """Relative path -> bytes of every file below `folder`, the manifest aside."""
    manifest = CheckpointDir(folder).manifest.name
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != manifest)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def is_complete(folder: Path) -> bool:
    """False where a file is missing or of another size: a killed writer, or a purged scratch disk."""
    try:
        return (read_json(CheckpointDir(folder).manifest) or {}).get("files") == file_sizes(folder)
    except (OSError, ValueError):
        return False


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return [each.path for each in RunDir(run_dir).checkpoint_dirs() if is_complete(each.path)]


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    newest_first = (each.path for each in reversed(RunDir(run_dir).checkpoint_dirs()))
    return next(filter(is_complete, newest_first), None)


def checkpoint_to_go_on_from(run_dir: Path) -> Path | None:
    """The newest whole checkpoint, or None.

    Raises:
        UserError: if it holds no optimizer state.
    """
    path = latest_checkpoint(run_dir)
    if path is not None and (read_json(CheckpointDir(path).manifest) or {}).get(_WEIGHTS_ALONE):
        step = CheckpointDir(path).step
        raise UserError(
            f"{run_dir}: is an archive, without optimizer state, and cannot go on; go on in the original, or begin a run "
            f"with model.path= what `python -m psychocounsel.export {run_dir} step={step}` writes"
        )
    return path
