"""Cancelling runs submitted to SLURM, and submitting them again."""

from collections.abc import Sequence
from pathlib import Path

from psychocounsel.cluster.job import Job
from psychocounsel.cluster.slurm.queue import scheduler
from psychocounsel.cluster.slurm.queue.standings import live_names, queued_runs
from psychocounsel.cluster.slurm.submitting import report_skipped, submit_jobs
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.submissions import home_of
from psychocounsel.rundir.trust import refuse_untrusted_code


def cancel(runs: Sequence[Path]) -> None:
    """Ask SLURM to cancel every waiting or running job of the runs of one folder or study, in all submissions.

    Raises:
        UserError: if SLURM refuses, or a run was never submitted.
    """
    homes = list(dict.fromkeys(home_of(run) for run in runs))
    names = live_names(*homes)
    for run in runs:
        if run not in names:
            raise UserError(f"{run}: was not submitted to SLURM; `touch {RunDir(run).stop}` lets it save and stop")
    scheduler.cancel(sorted({name for run in runs for name in names[run]}))


def shell(run: Path) -> list[str]:
    """Return srun's command for a shell on the first node of a running run.

    Raises:
        UserError: if it is not running.
    """
    here = queued_runs(home_of(run)).get(run)
    if here is None or here.task is None or not here.is_live or here.waits:
        state = "waits in the queue" if here is not None and here.is_live else "has no job in the queue"
        raise UserError(f"{run}: {state}: only a running run has nodes to open a shell on")
    return ["srun", f"--jobid={here.task.name}", "--overlap", "--nodes=1", "--ntasks=1", "--pty", "bash", "-i"]


def resubmit(jobs: list[Job], code: str) -> None:
    """Submit jobs of one folder again, with the `same` copy of the code, or a copy of the `current` code.

    Raises:
        UserError: if the copy is unknown, or SLURM refuses.
    """
    home = home_of(jobs[0].run_dir)
    submit_jobs(home, jobs, _code(home, jobs) if code == "same" else None)
    report_skipped(jobs, home)


def _code(home: Path, jobs: Sequence[Job]) -> list[Path]:
    """Return the copy of the code that the runs were submitted with.

    Raises:
        UserError: if they were submitted with several copies, the copy is gone, or another user could have written it.
    """
    queued = queued_runs(home, ask=False)
    used = {tuple(queued[job.run_dir].record.code) for job in jobs if job.run_dir in queued}
    if len(used) > 1:
        raise UserError("these runs were submitted with several versions of the code: give indices, or code=current")
    paths = [home / path for path in next(iter(used), ())]
    if not paths or not all(path.is_dir() for path in paths):
        raise UserError(
            f"{home}: the copy of the code that these runs were submitted with is gone, or they were moved: give code=current"
        )
    for path in paths:
        refuse_untrusted_code(path)
    return paths
