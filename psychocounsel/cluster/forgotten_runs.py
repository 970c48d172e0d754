"""`jobs forget`: removes runs that have made nothing, so that their directories can be given other settings."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from psychocounsel.cluster.ending.unbegun import made_nothing
from psychocounsel.cluster.standing.status import Row, rows
from psychocounsel.errors import UserError
from psychocounsel.rundir.sweep_table import is_sweep, remove_from_table


def forget(folder: Path, indices: Sequence[int]) -> None:
    """Remove the directories of runs of `folder`, and their lines in the sweep's table; without `indices` of a single run.

    Raises:
        UserError: if one waits or runs, or holds a result.
    """
    found = rows(folder)
    if not indices and is_sweep(folder):
        raise UserError(f"jobs forget {folder}: holds {len(found)} runs; name those to forget by their index")
    if unknown := set(indices) - {row.index for row in found}:
        raise UserError(f"there is no index {min(unknown)}: `python -m psychocounsel.jobs status {folder}` shows them")
    chosen = [row for row in found if not indices or row.index in indices]
    for row in chosen:
        _refuse(row)
    for row in chosen:
        shutil.rmtree(row.run_dir, ignore_errors=True)
    if is_sweep(folder):
        remove_from_table(folder, [row.run_dir for row in chosen])
    print(f"forgot {', '.join(str(row.run_dir) for row in chosen)}")


def _refuse(row: Row) -> None:
    if row.is_live:
        raise UserError(f"{row.run_dir}: is {row.state}; `python -m psychocounsel.jobs cancel` ends it first")
    if not made_nothing(row.run_dir):
        raise UserError(
            f"{row.run_dir}: holds results (it came to step {row.step}); only runs that made nothing are forgotten. Use another "
            "run_dir, or remove the folder yourself"
        )
