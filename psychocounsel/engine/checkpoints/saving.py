"""Checkpoints: `step-N/{policy,critic}/` by DeepSpeed, `loop.json`, a manifest; whole by one rename."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psychocounsel.distributed.world import World
from psychocounsel.engine.zero import Engine
from psychocounsel.rundir.manifest import (
    NAME,
    checkpoint_path,
    checkpoint_to_go_on_from,
    complete_checkpoints,
    file_sizes,
)
from psychocounsel.storage.files import fsync_directory, read_json, write_atomically, write_json

Announce = Callable[[str], None]


def save_checkpoint(
    run_dir: Path,
    step: int,
    loop: dict[str, Any],
    engines: dict[str, Engine],
    world: World,
    keep_last: int,
    announce: Announce,
) -> None:
    """Write a checkpoint and prune older ones to `keep_last`; `announce` is told `checkpoint_written` and `_renamed`."""
    final = checkpoint_path(run_dir, step)
    draft = final.with_name(f".{final.name}.tmp")
    if world.rank == 0:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    world.barrier()
    for name, engine in engines.items():
        engine.save(str(draft), name)
    world.barrier()
    if world.rank == 0:
        write_json(draft / "loop.json", {**loop, "step": step, "processes": world.size})
        _sync_files(draft)
        write_json(draft / NAME, {"files": file_sizes(draft)})
    announce("checkpoint_written")
    if world.rank == 0:
        shutil.rmtree(final, ignore_errors=True)  # an incomplete one of the same step
        draft.rename(final)
        fsync_directory(final.parent)
        write_atomically(final.parent / "latest", final.name + "\n")
        _prune(run_dir, keep_last)
    announce("checkpoint_renamed")
    world.barrier()


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _prune(run_dir: Path, keep_last: int) -> None:
    keep = complete_checkpoints(run_dir)[-keep_last:]
    for path in (run_dir / "checkpoints").iterdir():
        if path.is_dir() and path not in keep:
            shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(run_dir: Path, engines: dict[str, Engine]) -> dict[str, Any] | None:
    """Load the newest whole checkpoint into the engines; returns its `loop.json`, or None if there is none.

    Raises:
        UserError: if it holds no optimizer state.
    """
    folder = checkpoint_to_go_on_from(run_dir)
    if folder is None:
        return None
    for name, engine in engines.items():
        engine.load(str(folder), name)
    return read_json(folder / "loop.json")
