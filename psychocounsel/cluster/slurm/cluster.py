"""`cluster=slurm`: jobs go to SLURM's queue as arrays, requeue themselves, and can be cancelled and submitted again."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.cluster.base import Cluster, QueueState, Usage
from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.slurm import queue, sharing, study_chain, submitting
from psychocounsel.cluster.slurm.accounting import usage_of
from psychocounsel.cluster.slurm.dry_run import describe
from psychocounsel.cluster.slurm.queue import live_names, queued_runs
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.submitting import report_skipped, submit_jobs
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.submissions import home_of
from psychocounsel.rundir.trust import refuse_untrusted_code


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
    if gone := next((path for path in paths if not path.is_dir()), None if paths else home):
        raise UserError(
            f"{gone}: the copy of the code that these runs were submitted with is gone, or they were moved: resubmit with "
            "code=current"
        )
    for path in paths:
        refuse_untrusted_code(path)
    return paths


# The group `cluster`.


@dataclass
class Slurm(SlurmRequest, Cluster):
    def unused(self) -> dict[str, str]:
        unused = {}
        if not self.gpus_per_node:
            for name in ("gpu_type", "gpu_request", "gpu_memory_gb"):
                unused[name] = "cluster.gpus_per_node=0 requests no GPU"
        if not self.requeue:
            unused["max_requeues"] = "cluster.requeue=false disables requeueing"
        if not self.mail_user:
            unused["mail_type"] = "cluster.mail_user is not set"
        if not self.container.image:
            for name in ("command", "python", "binds", "arguments"):
                unused[f"container.{name}"] = "cluster.container.image is not set"
        elif not self.container.is_pyxis:
            unused["python"] = "jobs in a container run cluster.container.python"
        if not self.server_nodes:
            unused["servers"] = "cluster.server_nodes=0 starts no servers"
        return unused

    def describe(self, jobs: list[Job]) -> str:
        if not any(map(sharing.is_shared, jobs)):
            return describe(jobs)
        return "\n".join(sharing.describe(job) if sharing.is_shared(job) else describe([job]) for job in jobs)

    def select(self, jobs: list[Job]) -> None:
        submitting.select(jobs)

    def check_rows(self, jobs: list[Job]) -> list[str]:
        """Check rows after SLURM has answered and would accept the jobs, because reading rows takes longer."""
        submitting.refuse_unfetched(jobs)
        submitting.plan(jobs)
        return super().check_rows(jobs)

    def submit(self, jobs: list[Job]) -> Submission:
        shared = any(sharing.is_shared(job) and not job.skip for job in jobs)
        return sharing.submit(self, jobs) if shared else submitting.submit(self, jobs)

    def submit_study(self, groups: list[list[Job]]) -> Submission:
        return study_chain.submit_study(groups)

    def light(self) -> dict[str, Any]:
        """Return settings for one CPU and no GPU for some minutes; all other keys stay as for other jobs.

        A site that forbids --mem gets --mem-per-cpu, and options of `sbatch` about GPUs are left out.
        """
        one = {"nodes": 1, "gpus_per_node": 0, "gpu_type": None, "device": "cpu", "processes": 1, "cpus_per_process": 1}
        one |= {
            "threads": 1,
            "memory": "2G",
            "memory_per": "node" if self.memory_per == "node" else "cpu",
            "time": "20m",
            "stop_before_limit": "1m",
            "exclusive": False,
            "segments": 1,
        }
        one |= {"server_nodes": 0, "max_parallel": None, "runs_per_job": None, "runs_side_by_side": 1}
        return one | {"sbatch": {key: value for key, value in self.sbatch.items() if "gpu" not in str(key)}}

    def queue_states(self, runs: Sequence[Path]) -> dict[Path, QueueState]:
        """Return SLURM's states; empty on a machine without SLURM, to which a sweep was copied."""
        if not shutil.which("squeue"):
            return {}
        queued = queued_runs(*dict.fromkeys(map(home_of, runs)))
        return {run: queued[run].queue_state() for run in runs if run in queued}

    def usage(self, runs: Sequence[Path]) -> dict[Path, Usage]:
        return usage_of(dict.fromkeys(map(home_of, runs)))

    def shell(self, run: Path) -> list[str]:
        """Return srun's command for a shell on the first node of a running run.

        Raises:
            UserError: if it is not running.
        """
        queued_run = queued_runs(home_of(run)).get(run)
        if queued_run is None or queued_run.task is None or not queued_run.is_live or queued_run.waits:
            state = "waits in the queue" if queued_run is not None and queued_run.is_live else "has no job in the queue"
            raise UserError(f"{run}: {state}: only a running run has nodes to open a shell on")
        return [
            "srun",
            f"--jobid={queued_run.task.name}",
            "--overlap",
            "--nodes=1",
            "--ntasks=1",
            "--pty",
            "bash",
            "-i",
        ]

    def cancel(self, runs: Sequence[Path]) -> None:
        """Ask SLURM to cancel every waiting or running job of the runs of one folder or study, in all submissions.

        Raises:
            UserError: if SLURM refuses, or a run was never submitted.
        """
        homes = list(dict.fromkeys(home_of(run) for run in runs))
        names = live_names(*homes)
        for run in runs:
            if run not in names:
                raise UserError(f"{run}: was not submitted to SLURM; `touch {RunDir(run).stop}` lets it save and stop")
        cancelled = {name for run in runs for name in names[run]}
        queue.cancel(sorted(cancelled))
        if beside := [run.name for run, own in names.items() if run not in runs and not cancelled.isdisjoint(own)]:
            print(f"with them, because they share jobs (cluster.runs_per_job): {', '.join(beside)}")

    def resubmit(self, jobs: list[Job], code: str) -> None:
        """Submit jobs of one folder again, with the `same` copy of the code, or a copy of the `current` code.

        Raises:
            UserError: if the copy is unknown, or SLURM refuses.
        """
        home = home_of(jobs[0].run_dir)
        submit_jobs(home, jobs, _code(home, jobs) if code == "same" else None)
        report_skipped(jobs, home)
