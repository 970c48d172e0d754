"""Checkpoints, `step-N/{policy,critic}/`, `loop.json` and a manifest of hashes, and `model/`, written while training continues.

Both are written to a draft folder, which one rename makes complete.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from psychocounsel.distributed.world import World
from psychocounsel.engine.checkpoints.engine_files import EngineFiles, Partition, Shard, describe, shard_of, write_shard
from psychocounsel.engine.checkpoints.model_folder import draft_of
from psychocounsel.engine.zero import Engine
from psychocounsel.errors import Unwritable, UserError
from psychocounsel.rundir.manifest import (
    check_can_go_on,
    complete_checkpoints,
    damage,
    file_marks,
    is_complete,
    write_manifest,
)
from psychocounsel.rundir.paths import CheckpointDir
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import (
    fsync_directory,
    json_text,
    read_mapping,
    recover_directory,
    replace_directory,
    write_atomically,
)
from psychocounsel.storage.hashes import FileMark, write_marked

# Copies in host memory, in buffers that every checkpoint uses again.


class HostCopy:
    """Named buffers in host memory, pinned for tensors on a GPU. A new copy overwrites the last one of the same name."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Start to copy `value` into its buffer and return the buffer; its content is complete after `wait`."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(value, non_blocking=value.is_cuda)

    def wait(self) -> None:
        """Return when all copies are complete."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()


# Bytes that a disk takes in about a second. Smaller checkpoints are completed at a fixed time, one step later.
_SOON = 1 << 28
T = TypeVar("T")


@dataclass
class _Pending:
    """A checkpoint or a model that is being written. Once `writing` is done on all ranks, they call `complete` together."""

    is_model: bool
    writing: "Future[Any]"
    soon: bool
    complete: Callable[[], None]


class Checkpoints:
    """Writes and reads the checkpoints of a run. All ranks call each method together.

    `announce` is called with `checkpoint_written` and `checkpoint_renamed`, and with the checkpoint's step.
    """

    def __init__(
        self, run: Run, engines: dict[str, Engine], world: World, announce: Callable[[str, int], None]
    ) -> None:
        self.run, self.files, self.settings = run, run.files, run.config.checkpoint
        self.world, self.announce = world, announce
        self.partitions = {name: Partition(engine.deepspeed, engine.module) for name, engine in engines.items()}
        self._copies = {name: HostCopy() for name in engines}
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: list[_Pending] = []  # in the order in which they become complete
        self._last = ""  # the loop's state of the newest complete checkpoint of this process
        self._saved = time.monotonic()

    def overdue(self) -> bool:
        """Return True if the last checkpoint, or the start, was at least `checkpoint.minutes` ago by rank 0's clock."""
        minutes = self.settings.minutes
        return minutes is not None and self.world.any(
            self.world.rank == 0 and time.monotonic() - self._saved >= 60 * minutes
        )

    def save(self, step: int, loop: dict[str, Any]) -> None:
        """Start to write the state of the engines and of the loop; `settle` completes the checkpoint, the previous one first.

        If this process has already saved the same state, nothing is written.

        Raises:
            Unwritable: as in `settle`, for this checkpoint or the previous one.
        """
        self._settle_kind(is_model=False)
        self._saved = time.monotonic()
        target, rank, ranks = self.files.checkpoint(step), self.world.rank, self.world.size
        state = {**loop, "step": step, "processes": ranks}
        if self.world.any(rank == 0 and json_text(state) == self._last and is_complete(target.path)):
            return
        self._together(target.path, target.draft.path, partial(self._make_draft, target.draft) if rank == 0 else None)
        shards = {name: shard_of(partition, rank, ranks) for name, partition in self.partitions.items()}
        everyone = self.world.gather({name: (shard.slices, shard.size) for name, shard in shards.items()})
        notes: dict[str, Any] = {target.loop.name: state}
        for name, partition in self.partitions.items():
            path = target.description(name).relative_to(target.path).as_posix()
            notes[path] = describe(partition, [part[name][0] for part in everyone])
        if self.settings.background:
            shards = {name: shard.copied(self._copies[name]) for name, shard in shards.items()}
            for copy in self._copies.values():
                copy.wait()
        writing = self._thread.submit(self._write, shards, notes if rank == 0 else {}, target.draft)
        soon = sum(size for part in everyone for _, size in part.values()) <= _SOON
        complete = partial(self._complete_checkpoint, target, json_text(state), writing)
        self._pending.append(_Pending(False, writing, soon, complete))
        if not self.settings.background:
            self.settle()

    def export(self, folder: Path, fill: Callable[[Path], None] | None, size: int) -> None:
        """Start to write a model of `size` bytes by rank 0's `fill`; `settle` puts it in place of `folder`.

        The model is complete before any later checkpoint, because a resumed run does not write it again. A small model is
        complete at once. The previous model is completed first.

        Raises:
            Unwritable: as in `settle`.
        """
        self._settle_kind(is_model=True)
        writing = self._thread.submit(fill, draft_of(folder)) if fill else self._thread.submit(bool)
        self._pending.append(_Pending(True, writing, size <= _SOON, partial(self._complete_model, folder, writing)))
        if size <= _SOON or not self.settings.background:
            self.settle()

    def settle(self, wait: bool = True) -> None:
        """Complete what is being written; if not `wait`, only what is small or written by all ranks.

        Raises:
            Unwritable: if a file could not be written; the incomplete checkpoint or model is then removed.
        """
        while self._pending:
            first = self._pending[0]
            if not (wait or first.soon) and self.world.any(not first.writing.done()):
                return
            del self._pending[0]
            first.complete()

    def _settle_kind(self, is_model: bool) -> None:
        """Complete the checkpoint, or the model, that is being written, and everything before it."""
        while any(pending.is_model == is_model for pending in self._pending):
            self._pending.pop(0).complete()

    def _complete_checkpoint(self, target: CheckpointDir, loop: str, writing: "Future[dict[str, FileMark]]") -> None:
        """Put a checkpoint in its place. `loop` distinguishes it from another one of the same step."""
        together, is_main = partial(self._together, target.path, target.draft.path), self.world.rank == 0
        parts = together(writing.result)
        marks = {name: mark for part in parts if part for name, mark in part.items()}
        together(partial(write_manifest, target.draft.path, marks) if is_main else None)
        self.announce("checkpoint_written", target.step)
        together(partial(self._rename, target) if is_main else None)
        self._last = loop
        self.announce("checkpoint_renamed", target.step)
        self.world.barrier()

    def _complete_model(self, folder: Path, writing: "Future[Any]") -> None:
        draft = draft_of(folder)
        self._together(folder, draft, writing.result)
        self._together(folder, draft, partial(replace_directory, draft, folder) if self.world.rank == 0 else None)

    def load(self) -> dict[str, Any] | None:
        """Load the newest complete and undamaged checkpoint into the engines; return the state of the loop, or None without one.

        The processes and the ZeRO stage that wrote it may differ from today's. Rank 0 chooses the checkpoint, because a
        shared file system may show other ranks fewer or older folders.

        Raises:
            UserError: if all checkpoints are damaged, have no optimizer state, or belong to another model.
        """
        is_main = self.world.rank == 0
        if is_main:
            self._put_back()
            check_can_go_on(self.files.path)
        self.world.barrier()
        folder = self._newest_intact()
        if folder is None:
            return None
        loop: dict[str, Any] = self.world.broadcast(read_mapping(folder.loop) if is_main else None)
        for name, partition in self.partitions.items():
            EngineFiles(folder.path, name).restore(partition)
        return loop

    # -- small parts

    def _write(self, shards: dict[str, Shard], notes: dict[str, Any], draft: CheckpointDir) -> dict[str, FileMark]:
        """Write this rank's files, and the JSON `notes` by relative path, and sync them to disk.

        It runs in a thread, on tensors that nothing changes meanwhile.
        """
        marks = {
            name: write_marked(draft.path / name, [json_text(content).encode()]) for name, content in notes.items()
        }
        for name, shard in shards.items():
            partition = self.partitions[name]
            shapes = {parameter: partition.shape(parameter) for parameter in partition.parameters}
            marks |= write_shard(shard, shapes, draft, name, self.world.rank)
            fsync_directory(draft.description(name).parent)
        return marks

    def _together(self, path: Path, draft: Path, work: Callable[[], T] | None) -> list[T | None]:
        """Return `work`'s result on each rank; if one rank cannot write, remove the draft and raise on all ranks."""
        done, wrong = None, None
        try:
            done = work() if work else None
        except OSError as error:
            wrong = error.strerror or str(error)
        results = self.world.gather((done, wrong))
        if wrong := next((reason for _, reason in results if reason), None):
            if self.world.rank == 0:
                shutil.rmtree(draft, ignore_errors=True)
            raise Unwritable(
                f"{path}: cannot be written ({wrong}); make room, then the same command resumes from the newest checkpoint"
            )
        return [value for value, _ in results]

    def _make_draft(self, draft: CheckpointDir) -> None:
        shutil.rmtree(draft.path, ignore_errors=True)
        for name in self.partitions:
            draft.description(name).parent.mkdir(parents=True)

    def _rename(self, target: CheckpointDir) -> None:
        replace_directory(target.draft.path, target.path)
        write_atomically(self.files.latest_checkpoint, target.path.name + "\n")
        whole = [path for path in complete_checkpoints(self.files.path) if CheckpointDir(path).step <= target.step]
        stale = [folder.path for folder in self.files.checkpoint_dirs()] + self.files.checkpoint_leftovers()
        for path in stale:  # damaged checkpoints of later steps, which were skipped, are removed, too
            if path not in whole[-self.settings.keep_last :]:
                shutil.rmtree(path, ignore_errors=True)

    def _put_back(self) -> None:
        """Recover checkpoints that were being replaced by one of the same step when the run was killed."""
        for path in self.files.checkpoint_leftovers():
            recover_directory(path.with_name(path.name[1:].partition(".")[0]))

    def _newest_intact(self) -> CheckpointDir | None:
        """Return the newest intact checkpoint; the ranks share the work of reading every byte.

        Only complete folders are ever renamed, so an incomplete one is damaged.
        """
        folders = self.files.checkpoint_dirs() if self.world.rank == 0 else []
        known = [(folder.step, file_marks(folder.path) if is_complete(folder.path) else {}) for folder in folders]
        damaged = []
        for step, marks in reversed(self.world.broadcast(known)):
            folder = self.files.checkpoint(step)
            mine = sorted(marks.items())[self.world.rank :: self.world.size]
            wrong = next(filter(None, self.world.gather(damage(folder.path, dict(mine)))), None)
            if marks and wrong is None:
                return folder
            damaged.append(folder.path.name)
            self.run.say(f"checkpoint {folder.path.name} is skipped: {wrong or _incomplete(folder)}")
        if damaged:
            raise UserError(
                f"{self.files.checkpoints}: {' and '.join(damaged)} changed after being written, and there is no other: "
                "restore the files, or delete this folder to restart"
            )
        return None


def _incomplete(folder: CheckpointDir) -> str:
    """Return the fault of a checkpoint that is not complete."""
    if not file_marks(folder.path):
        return f"{folder.manifest.name} is missing, damaged, or written by another version of the program"
    return "files are missing, added or of another size"
