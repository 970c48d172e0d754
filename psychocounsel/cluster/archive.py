"""Upload and archive of finished runs: `jobs sync`, also at the end of a job, and `jobs archive`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from psychocounsel.cluster.slurm.code_copies import copies_used
from psychocounsel.cluster.states import rows, shard_rows
from psychocounsel.engine.telemetry.trackers import Wandb, answers, server_address
from psychocounsel.errors import UserError
from psychocounsel.remote.confidential import check_confidential
from psychocounsel.rundir.manifest import complete_checkpoints, damage, weights_marks, write_manifest
from psychocounsel.rundir.paths import RunDir, SubmissionHome
from psychocounsel.rundir.run_config import module_of, read_config, read_section
from psychocounsel.rundir.submissions import home_of
from psychocounsel.rundir.sweep import runs_of
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings.command import command_of
from psychocounsel.settings.own_code import require_agreement
from psychocounsel.storage.files import readable_size, temporary_name, with_noun
from psychocounsel.storage.modes import mask_of, restricted

SYNC_SECONDS = 300  # time limit of the upload at the end of a job


def sync_where_asked(run_dir: Path, seconds: float) -> None:
    """Upload what a run with `tracker.sync` stored offline, within `seconds`. If that fails, only a line says what to type."""
    is_asked = (read_section(run_dir, "tracker") or {}).get("sync", False)
    if not is_asked or not RunDir(run_dir).offline_wandb_runs():
        return
    try:
        sync(run_dir, [run_dir], seconds)
    except (UserError, OSError, KeyboardInterrupt) as error:  # Ctrl-C ends the upload, and the run has ended before
        command = f"`psychocounsel jobs sync {quote(str(run_dir))}`"
        print(
            f"tracker.sync: not uploaded: {str(error) or 'interrupted'}; type {command} where the server can be reached",
            flush=True,
        )


def sync(folder: Path, run_dirs: Sequence[Path], seconds: float | None = None) -> None:
    """Upload the wandb runs that these runs of `folder` stored offline, within `seconds` (None: without a limit).

    Raises:
        UserError: if no offline runs exist, a confidential run may not use the server, the server does not answer, or wandb is
            missing, fails or takes too long.
    """
    runs = [run_dir for run_dir in run_dirs if RunDir(run_dir).offline_wandb_runs()]
    kept = [path for run in runs for path in RunDir(run).offline_wandb_runs()]
    for run in runs:
        require_agreement(run)
        check_confidential(
            command_of(module_of(run)), read_config(run)
        )  # the server may have changed since the run started
    if not kept:
        raise UserError(f"{folder}: contains no offline runs of wandb (made by tracker=wandb with WANDB_MODE=offline)")
    Wandb().check()
    if not answers(address := server_address()):  # wandb itself tries for minutes
        raise UserError(f"{address} cannot be reached: repeat the command where there is a network")
    command = [sys.executable, "-m", "wandb", "sync", *map(str, kept)]
    try:  # wandb's own logs belong to a run, not to the current folder
        # When a run ends, the user may be away, and wandb would wait at the terminal for a missing key.
        asks = None if seconds is None else subprocess.DEVNULL
        done = subprocess.run(command, env=os.environ | {"WANDB_DIR": str(runs[0])}, timeout=seconds, stdin=asks)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"wandb sync took more than {seconds:g} s") from error
    if done.returncode:
        raise UserError(f"wandb sync ended with exit code {done.returncode}: see its output above")
    print(f"uploaded {with_noun(len(kept), 'run')}", flush=True)


def archive(folder: Path, destination: Path) -> None:
    """Copy runs and their jobs' code to a new folder. Checkpoints are copied without their optimizer state.

    Raises:
        UserError: if a run is live, another user could have written it, the destination exists or lies in `folder`, the
            disk is too small, or weights are damaged.
    """
    every = rows(folder, acts=True)
    if live := [row for row in [*every, *shard_rows(every)] if row.is_live]:
        raise UserError(f"{live[0].run_dir.name} is {live[0].state}: archive after all runs have ended")
    if destination.exists():
        raise UserError(f"{destination}: exists; give a new folder")
    if destination.is_relative_to(folder):
        raise UserError(f"{destination}: lies inside the archived folder; give a folder outside of it")
    for run in runs_of(folder):
        refuse_untrusted_run(run.run_dir)
    places = [RunDir(run.run_dir).checkpoints for run in runs_of(folder)]
    checkpoints = [path for place in places for path in complete_checkpoints(place.parent)]
    files = [path for path in sorted(folder.rglob("*")) if _is_copied(path, places)]
    copies = {copy for run in runs_of(folder) for copy in copies_used(home_of(run.run_dir))}
    code = [path for copy in copies for path in copy.rglob("*") if not path.is_dir()]
    size = sum(path.lstat().st_size for path in (*files, *code))
    weights = sum(mark["bytes"] for path in checkpoints for mark in weights_marks(path).values())
    room = next(path for path in destination.parents if path.exists())
    if size + weights > (free := shutil.disk_usage(room).free):
        raise UserError(f"{readable_size(size + weights)} do not fit into {room}, where {readable_size(free)} are free")
    draft = temporary_name(destination)
    made = [path for run in runs_of(folder) for path in (RunDir(run.run_dir).model, RunDir(run.run_dir).checkpoints)]
    try:
        with restricted(mask_of(made, destination.parent)):
            for path in files:
                target = draft / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target, follow_symlinks=False)
            for path in checkpoints:
                _keep_weights(path, draft / path.relative_to(folder))
            for copy in copies:
                shutil.copytree(copy, SubmissionHome(draft).code / copy.name, symlinks=True)
        written = sum(path.lstat().st_size for path in draft.rglob("*") if not path.is_dir())
        os.replace(draft, destination)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(
        f"{with_noun(len(files), 'file')} and the weights of {with_noun(len(checkpoints), 'checkpoint')}, "
        f"{readable_size(written)}: {destination}"
    )


def _is_copied(path: Path, checkpoint_folders: Sequence[Path]) -> bool:
    inside = any(path.is_relative_to(folder) for folder in checkpoint_folders)
    is_folder = (
        path.is_dir() and not path.is_symlink()
    )  # links to folders, such as `best` of a search, are copied as links
    return not inside and not is_folder and not path.name.endswith(".tmp")


def _keep_weights(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint without optimizer state, and verify its checksums.

    Raises:
        UserError: if the checkpoint is damaged.
    """
    marks = weights_marks(checkpoint)
    for name in marks:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(checkpoint / name, target / name)
    if wrong := damage(target, marks):
        raise UserError(f"{checkpoint}: is damaged: {wrong}; restore it, or delete this folder to archive without it")
    write_manifest(target, marks, weights_alone=True)
