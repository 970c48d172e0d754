"""State of each submitted run in SLURM's queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psychocounsel.cluster.base import Standing
from psychocounsel.cluster.slurm.queue import scheduler
from psychocounsel.cluster.slurm.queue.lost import find_lost
from psychocounsel.rundir.submissions import Record, read

_ENDED_BY_SLURM = {
    "CANCELLED": "cancelled",
    "TIMEOUT": "timed out",
    "NODE_FAIL": "node failed",
    "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "preempted",
    "DEADLINE": "past its deadline",
    "BOOT_FAIL": "node failed",
}


@dataclass
class QueuedRun:
    """A run's newest submission, and its task if SLURM still knows it."""

    record: Record
    index: int
    task: scheduler.Task | None

    @property
    def is_live(self) -> bool:
        return self.task is not None and self.task.is_live

    @property
    def waits(self) -> bool:
        """True if it has not started, and can still start."""
        return self.task is not None and self.task.state == "PENDING"

    def names(self) -> list[str]:
        """Names of its task in every segment of its chain."""
        return [f"{job}_{self.index}" if self.record.is_array else job for job in self.record.jobs]

    def standing(self) -> Standing:
        """State in the terms shared by all clusters."""
        task = self.task
        name = self.record.task_name(self.index) if task is None else task.name
        log = self.record.job_log(name)
        if task is None:
            return Standing(name, "forgotten", log=log)
        if task.is_live:
            phase = "waiting" if task.state == "PENDING" else "running"
            return Standing(name, phase, task.reason, task.nodes, log=log)
        ending = _ENDED_BY_SLURM.get(task.state, task.state.lower())
        return Standing(name, "ended", task.reason, ending=ending, was_ended=task.state in _ENDED_BY_SLURM, log=log)


def queued_runs(*homes: Path, ask: bool = True) -> dict[Path, QueuedRun]:
    """Return the state of every run submitted from `homes`, by one call of squeue; without `ask` no task is known.

    Raises:
        UserError: if SLURM does not answer.
    """
    if ask:
        find_lost(homes)
    records = [record for home in homes for record in read(home)]
    known = _known(records) if ask else {}
    result = {}
    for record in records:
        for index, runs in enumerate(record.tasks):
            task = _telling(known, record, index)
            for run in runs:
                result[run] = QueuedRun(record, index, task)
    return result


def live_names(*homes: Path) -> dict[Path, list[str]]:
    """Return the waiting and running tasks of every run submitted from `homes`, in all submissions and segments.

    Raises:
        UserError: if SLURM does not answer.
    """
    find_lost(homes)
    records = [record for home in homes for record in read(home)]
    known = _known(records)
    found: dict[Path, list[str]] = {}
    for record in records:
        for index, runs in enumerate(record.tasks):
            tasks = (known.get((job, index if record.is_array else None)) for job in record.jobs)
            names = [task.name for task in tasks if task is not None and task.is_live]
            for run in runs:
                found.setdefault(run, []).extend(names)
    return found


def _telling(known: dict[tuple[str, int | None], scheduler.Task], record: Record, index: int) -> scheduler.Task | None:
    """Return the live segment of a chain, otherwise the last known one."""
    place = index if record.is_array else None
    found = [task for job in record.jobs if (task := known.get((job, place)))]
    running = [task for task in found if task.is_live]
    return next((task for task in running if task.state != "PENDING"), None) or next(iter(running or found[::-1]), None)


def _known(records: Sequence[Record]) -> dict[tuple[str, int | None], scheduler.Task]:
    """Return the tasks of all records that SLURM still knows, by job and index."""
    jobs = [job for record in records for job in record.jobs]
    return {(task.job, task.index): task for task in scheduler.tasks(jobs, {record.owner for record in records})}
