"""What goes elsewhere when runs are done: `jobs sync` and `jobs archive`."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from psychocounsel.cluster.status import rows
from psychocounsel.errors import UserError
from psychocounsel.rundir.manifest import complete_checkpoints, file_sizes
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.sweep_table import runs_of
from psychocounsel.storage.files import readable_size


def sync(folder: Path) -> None:
    """Upload the wandb runs that were kept on disk.

    Raises:
        UserError: if there are none, or wandb is not installed or fails.
    """
    kept = [path for run in runs_of(folder) for path in RunDir(run.run_dir).offline_wandb_runs()]
    if not kept:
        raise UserError(f"{folder}: holds no offline runs of wandb (tracker=wandb with WANDB_MODE=offline makes them)")
    done = subprocess.run([sys.executable, "-m", "wandb", "sync", *map(str, kept)])
    if done.returncode:
        raise UserError(f"wandb sync ended with exit code {done.returncode}: what it says above tells why")
    print(f"uploaded {len(kept)} runs")


def archive(folder: Path, destination: Path) -> None:
    """Copy everything but optimizer state to a new folder; of checkpoints the weights and `loop.json`.

    Raises:
        UserError: if a run still lives, the destination exists, or the disk is too small.
    """
    if live := [row for row in rows(folder) if row.is_live]:
        raise UserError(f"{live[0].run_dir.name} is {live[0].state}: archive when all have ended")
    if destination.exists():
        raise UserError(f"{destination}: exists; give a new folder")
    if destination.is_relative_to(folder):
        raise UserError(f"{destination}: lies in what is to be archived")
    places = [RunDir(run.run_dir).checkpoints for run in runs_of(folder)]
    checkpoints = [path for place in places for path in complete_checkpoints(place.parent)]
    files = [path for path in sorted(folder.rglob("*")) if _is_copied(path, places)]
    size = sum(path.lstat().st_size for path in files)
    weights = sum(sum(file_sizes(path).values()) for path in checkpoints) / 3  # Adam's moments are as large each
    room = next(path for path in destination.parents if path.exists())
    if size + weights > (free := shutil.disk_usage(room).free):
        raise UserError(f"{readable_size(size + weights)} do not fit into {room}, where {readable_size(free)} are free")
    draft = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.tmp")
    try:
        for path in files:
            target = draft / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
        _keep_checkpoints({path: draft / path.relative_to(folder) for path in checkpoints})
        written = sum(path.lstat().st_size for path in draft.rglob("*") if not path.is_dir())
        os.replace(draft, destination)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(
        f"{len(files)} files and the weights of {len(checkpoints)} checkpoints, {readable_size(written)}: {destination}"
    )


def _is_copied(path: Path, checkpoint_folders: Sequence[Path]) -> bool:
    inside = any(path.is_relative_to(folder) for folder in checkpoint_folders)
    return not inside and not path.is_dir() and not path.name.endswith(".tmp")


def _keep_checkpoints(targets: Mapping[Path, Path]) -> None:
    if not targets:
        return
    try:
        from psychocounsel.engine.checkpoints.checkpoint_weights import keep_weights
    except ImportError as error:
        raise UserError(f"reading checkpoints needs {error.name}, as training does: install it here") from error
    for checkpoint, target in targets.items():
        keep_weights(checkpoint, target)
