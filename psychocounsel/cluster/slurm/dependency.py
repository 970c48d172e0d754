"""`after=[RUN_OR_SWEEP,...]`: runs that start after others have finished."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from psychocounsel.cluster.slurm.queue.standings import QueuedRun, queued_runs
from psychocounsel.errors import UserError
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.submissions import Record, home_of
from psychocounsel.rundir.summary import is_finished
from psychocounsel.rundir.sweep_table import is_sweep


def dependency(parents: Sequence[str], tasks: int) -> str:
    """Return sbatch's --dependency for a job, or for an array of `tasks` tasks; "" without a dependency.

    An array after an array of equal length waits index by index (aftercorr), otherwise for all tasks (afterok).

    Raises:
        UserError: if a parent is not a run or sweep, was never submitted, or has ended unfinished.
    """
    found, alone = list[str](), dict[Path, list[Path]]()
    for parent in map(Path, parents):
        if is_sweep(parent):
            found.append(_after_sweep(parent, tasks))
        elif is_run(parent):
            alone.setdefault(home_of(parent), []).append(parent)
        else:
            raise UserError(f"after={parent}: is neither a run nor a sweep (submit it first)")
    found += [_after_runs(place, runs) for place, runs in alone.items()]
    return ",".join(filter(None, found))


def _after_sweep(sweep: Path, tasks: int) -> str:
    queued = queued_runs(sweep)
    if not queued and not is_finished(sweep):
        raise UserError(f"after={sweep}: was not submitted to SLURM and is not finished")
    newest = list({id(here.record): here.record for here in _waiting(queued, sweep, sweep).values()}.values())
    if len(newest) == 1 and newest[0].is_array and len(newest[0].tasks) == tasks:
        return f"aftercorr:{newest[0].jobs[-1]}"
    return _afterok(record.jobs[-1] for record in newest)


def _after_runs(place: Path, runs: Sequence[Path]) -> str:
    """Return dependencies on runs submitted from `place`; an array is named as one job if all its runs are awaited."""
    queued, waiting = queued_runs(place), dict[Path, QueuedRun]()
    for run in runs:
        if run not in queued and not is_finished(run):
            raise UserError(f"after={run}: was not submitted to SLURM and is not finished")
        waiting |= _waiting({run: queued[run]} if run in queued else {}, run, place)

    def whole(record: Record) -> bool:
        return all(run in waiting and waiting[run].record is record for task in record.tasks for run in task)

    records = {id(here.record): here.record for here in waiting.values()}
    wholes = {number for number, record in records.items() if whole(record)}
    return _afterok(
        here.record.jobs[-1] if id(here.record) in wholes else here.record.task_name(here.index)
        for here in waiting.values()
    )


def _waiting(queued: Mapping[Path, QueuedRun], parent: Path, place: Path) -> dict[Path, QueuedRun]:
    """Return the unfinished runs."""
    waiting = {run: here for run, here in queued.items() if not is_finished(run)}
    if ended := [run for run, here in waiting.items() if not here.is_live]:
        raise UserError(
            f"after={parent}: {ended[0].name} has ended unfinished; "
            f"`python -m psychocounsel.jobs resubmit {place}` first"
        )
    return waiting


def _afterok(names: Iterable[str]) -> str:
    distinct = [*dict.fromkeys(names)]
    return f"afterok:{':'.join(distinct)}" if distinct else ""
