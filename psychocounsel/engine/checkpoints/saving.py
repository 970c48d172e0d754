"""Checkpoints: `step-N/{policy,critic}/` by DeepSpeed, `loop.json`, a manifest; whole by one rename."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.distributed.world import World
from psychocounsel.engine.callbacks import Announce
from psychocounsel.engine.zero import Engine
from psychocounsel.rundir.manifest import checkpoint_to_go_on_from, complete_checkpoints, write_manifest
from psychocounsel.rundir.paths import CheckpointDir, RunDir
from psychocounsel.storage.files import fsync_directory, read_json, write_atomically, write_json


@dataclass(frozen=True)
class Checkpoints:
    """Writes and reads the checkpoints of a run; `announce` is told `checkpoint_written` and `checkpoint_renamed`."""

    files: RunDir
    engines: dict[str, Engine]
    world: World
    keep_last: int
    announce: Announce

    def save(self, step: int, loop: dict[str, Any]) -> None:
        """Write a checkpoint with the state of the loop, and remove older ones but the last `keep_last`. On all ranks."""
        final = self.files.checkpoint(step).path
        draft = CheckpointDir(final.with_name(f".{final.name}.tmp"))
        if self.world.rank == 0:
            shutil.rmtree(draft.path, ignore_errors=True)
            draft.path.mkdir(parents=True)
        self.world.barrier()
        for name, engine in self.engines.items():
            engine.save(str(draft.path), name)
        self.world.barrier()
        if self.world.rank == 0:
            write_json(draft.loop, {**loop, "step": step, "processes": self.world.size})
            _sync_files(draft.path)
            write_manifest(draft.path)
        self.announce("checkpoint_written")
        if self.world.rank == 0:
            shutil.rmtree(final, ignore_errors=True)  # an incomplete one of the same step
            draft.path.rename(final)
            fsync_directory(final.parent)
            write_atomically(self.files.latest_checkpoint, final.name + "\n")
            self._prune()
        self.announce("checkpoint_renamed")
        self.world.barrier()

    def load(self) -> dict[str, Any] | None:
        """Load the newest whole checkpoint into the engines; returns the state of the loop, or None if there is none.

        Raises:
            UserError: if it holds no optimizer state.
        """
        folder = checkpoint_to_go_on_from(self.files.path)
        if folder is None:
            return None
        for name, engine in self.engines.items():
            engine.load(str(folder), name)
        return read_json(CheckpointDir(folder).loop)

    def _prune(self) -> None:
        keep = complete_checkpoints(self.files.path)[-self.keep_last :]
        for path in self.files.checkpoints.iterdir():
            if path.is_dir() and path not in keep:
                shutil.rmtree(path, ignore_errors=True)


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
