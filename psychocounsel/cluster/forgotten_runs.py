"""`jobs forget`: removes runs without results, so that their directories can get other settings."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from psychocounsel.cluster.ending.unbegun import made_nothing
from psychocounsel.cluster.slurm.copied_code.code_store import remove_unused, store_of
from psychocounsel.cluster.standing.status import Row, rows
from psychocounsel.cluster.standing.status_lines import refuse_unknown_index
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir, SubmissionHome, cell_record
from psychocounsel.rundir.run_config import is_run, read_section
from psychocounsel.rundir.submissions import home_of
from psychocounsel.rundir.sweep_table import is_sweep, remove_from_table
from psychocounsel.rundir.trust import refuse_untrusted_run

_FILES, _HOME = RunDir(Path()), SubmissionHome(Path())
_OWN = {  # files that a run directory without results may contain
    path.name
    for path in (
        *(_FILES.config, _FILES.job, _FILES.overrides, _FILES.code, _FILES.state, _FILES.environment, _FILES.summary),
        *(_FILES.logs, _FILES.failure, _FILES.profile, _FILES.tensorboard, _FILES.wandb, _FILES.owner, _FILES.stop),
        *(_FILES.servers, _FILES.checkpoints, _FILES.rounds, _HOME.submissions, _HOME.lock, _HOME.code),
        cell_record(Path()),
    )
}


def forget(folder: Path, indices: Sequence[int]) -> None:
    """Remove the directories of runs in `folder`, and their lines in the sweep's table.

    Without `indices`, `folder` must be a single run.

    Raises:
        UserError: if a run waits, runs, has a result or foreign files, or belongs to another user; or if an index is
            unknown.
    """
    found = rows(folder)
    if not indices and is_sweep(folder):
        raise UserError(f"jobs forget {folder}: contains {len(found)} runs; name the runs to forget by their indices")
    refuse_unknown_index(indices, [row.index for row in found])
    chosen = [row for row in found if not indices or row.index in indices]
    for row in chosen:
        _refuse(row, folder)
    stores = {_copies_of(row.run_dir) for row in chosen}
    for row in chosen:
        shutil.rmtree(row.run_dir)
    if is_sweep(folder):
        remove_from_table(folder, [row.run_dir for row in chosen])
    for store in stores:
        remove_unused(store)
    print(f"forgot {', '.join(str(row.run_dir) for row in chosen)}")


def _copies_of(run_dir: Path) -> Path:
    """Return the folder that holds the copies of code of the run's submissions; it may not exist."""
    paths = read_section(run_dir, "paths") or {}
    return store_of(home_of(run_dir), Path(paths.get("output") or run_dir))


def _refuse(row: Row, folder: Path) -> None:
    """Refuse a run that must not be removed. The sweep's table may be someone else's file and name any folder."""
    path = row.run_dir.resolve()
    if not is_run(path) or not path.is_relative_to(folder.resolve()):
        raise UserError(f"{row.run_dir}: is not a run in {folder}; nothing was removed")
    refuse_untrusted_run(row.run_dir)
    if row.is_live:
        raise UserError(f"{row.run_dir}: is {row.state}; `python -m psychocounsel.jobs cancel` ends it first")
    if not made_nothing(row.run_dir):
        raise UserError(
            f"{row.run_dir}: has results (it reached step {row.step}); only runs without results can be forgotten. Use another "
            "run_dir, or remove the folder yourself"
        )
    if foreign := sorted(each.name for each in path.iterdir() if each.name not in _OWN):
        raise UserError(f"{row.run_dir}: contains {foreign[0]}, which no run writes; move it away first")
