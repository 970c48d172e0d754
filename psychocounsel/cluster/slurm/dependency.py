"""`after=[RUN_OR_SWEEP,...]`: runs that begin when others have finished."""

from collections.abc import Sequence
from pathlib import Path

from psychocounsel.cluster.slurm.queue.standings import queued_runs
from psychocounsel.errors import UserError
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.submissions import home_of
from psychocounsel.rundir.summary import is_finished
from psychocounsel.rundir.sweep_table import is_sweep


def dependency(parents: Sequence[str], tasks: int) -> str:
    """The value of sbatch's --dependency for a job, or an array of so many `tasks`; "" if nothing is to be waited for.

    An array after an array of the same length waits index by index (aftercorr), otherwise for all (afterok).

    Raises:
        UserError: if a parent is no run or sweep, was never submitted, or has ended without finishing.
    """
    return ",".join(filter(None, (_after(Path(parent), tasks) for parent in parents)))


def _after(parent: Path, tasks: int) -> str:
    sweep = is_sweep(parent)
    if not sweep and not is_run(parent):
        raise UserError(f"after={parent}: is neither a run nor a sweep (submit it first)")
    place = home_of(parent)
    queued = {run: here for run, here in queued_runs(place).items() if sweep or run == parent}
    waiting = {run: here for run, here in queued.items() if not is_finished(run)}
    if not queued and not is_finished(parent):
        raise UserError(f"after={parent}: was not submitted to SLURM and is not finished")
    if ended := [run for run, here in waiting.items() if not here.is_live]:
        raise UserError(
            f"after={parent}: {ended[0].name} has ended without finishing; "
            f"`python -m psychocounsel.jobs resubmit {place}` first"
        )
    newest = {id(here.record): here.record for here in waiting.values()}.values()
    if sweep and len(newest) == 1 and (record := next(iter(newest))).is_array and len(record.tasks) == tasks:
        return f"aftercorr:{record.jobs[-1]}"
    names = [record.jobs[-1] for record in newest] if sweep else [h.record.task_name(h.index) for h in waiting.values()]
    return f"afterok:{':'.join(names)}" if names else ""
