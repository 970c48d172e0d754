"""What goes elsewhere when runs are done: `jobs sync` and `jobs archive`."""

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

from psychocounsel.cluster.status import rows, runs_of
from psychocounsel.engine.manifest import NAME as MANIFEST
from psychocounsel.errors import UserError
from psychocounsel.files import readable_size


def sync(folder: Path) -> None:
    """Upload the wandb runs that were kept on disk.

    Raises:
        UserError: if there are none, or wandb is not installed or fails.
    """
    kept = sorted(path for _, run, _ in runs_of(folder) for path in run.glob("wandb/offline-run-*") if path.is_dir())
    if not kept:
        raise UserError(f"{folder}: holds no offline runs of wandb (tracker=wandb with WANDB_MODE=offline makes them)")
    done = subprocess.run([sys.executable, "-m", "wandb", "sync", *map(str, kept)])
    if done.returncode:
        raise UserError(f"wandb sync ended with exit code {done.returncode}: what it says above tells why")
    print(f"uploaded {len(kept)} runs")


def archive(folder: Path, destination: Path) -> None:
    """Copy everything but checkpoints and copies of code to a new folder.

    Raises:
        UserError: if a run still lives, the destination exists, or the disk is too small.
    """
    if live := [row for row in rows(folder) if row.is_live]:
        raise UserError(f"{live[0].run_dir.name} is {live[0].state}: archive when all have ended")
    if destination.exists():
        raise UserError(f"{destination}: exists; give a new folder")
    if destination.is_relative_to(folder):
        raise UserError(f"{destination}: lies in what is to be archived")
    files = [path for path in sorted(folder.rglob("*")) if _is_kept(path.relative_to(folder)) and not path.is_dir()]
    size = sum(path.lstat().st_size for path in files)
    place = next(path for path in destination.parents if path.exists())
    if size > (free := shutil.disk_usage(place).free):
        raise UserError(f"{readable_size(size)} do not fit into {place}, where {readable_size(free)} are free")
    draft = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.tmp")
    try:
        for path in files:
            target = draft / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
        os.replace(draft, destination)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(f"{len(files)} files, {readable_size(size)}, in {destination}")


def _is_kept(path: Path) -> bool:
    return "checkpoints" not in path.parts and path.name != MANIFEST and not path.name.endswith(".tmp")
