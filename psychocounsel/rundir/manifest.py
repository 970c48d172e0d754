"""Which checkpoints of a run are whole. Torch-free: submission asks too."""

from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.storage.files import read_json

NAME = "manifest.json"
WEIGHTS_ALONE = "weights_alone"  # in the manifest of what `jobs archive` keeps of a checkpoint


def checkpoint_path(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:06d}"


def file_sizes(folder: Path) -> dict[str, int]:
    """Relative path -> bytes of every file below `folder`, the manifest aside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def is_complete(folder: Path) -> bool:
    """False where a file is missing or of another size: a killed writer, or a purged scratch disk."""
    try:
        return (read_json(folder / NAME) or {}).get("files") == file_sizes(folder)
    except (OSError, ValueError):
        return False


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return [path for path in sorted((run_dir / "checkpoints").glob("step-*")) if is_complete(path)]


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    for path in sorted((run_dir / "checkpoints").glob("step-*"), reverse=True):
        if is_complete(path):
            return path
    return None


def checkpoint_to_go_on_from(run_dir: Path) -> Path | None:
    """The newest whole checkpoint, or None.

    Raises:
        UserError: if it holds no optimizer state.
    """
    path = latest_checkpoint(run_dir)
    if path is not None and (read_json(path / NAME) or {}).get(WEIGHTS_ALONE):
        step = int(path.name.partition("-")[2])
        raise UserError(
            f"{run_dir}: is an archive, without optimizer state, and cannot go on; go on in the original, or begin a run "
            f"with model.path= what `python -m psychocounsel.export {run_dir} step={step}` writes"
        )
    return path
