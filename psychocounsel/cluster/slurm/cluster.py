"""`cluster=slurm`: jobs go to SLURM's queue as arrays, and requeue themselves."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.cluster.base import Cluster, Standing, Usage
from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.slurm import submitted, submitting
from psychocounsel.cluster.slurm.chain import study_chain
from psychocounsel.cluster.slurm.preview.dry_run import describe
from psychocounsel.cluster.slurm.queue.accounting import usage_of
from psychocounsel.cluster.slurm.queue.standings import queued_runs
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.shards import sharing
from psychocounsel.rundir.submissions import home_of


@dataclass
class Slurm(SlurmRequest, Cluster):
    def unused(self) -> dict[str, str]:
        found = {}
        if not self.gpus_per_node:
            for name in ("gpu_type", "gpu_request", "gpu_memory_gb"):
                found[name] = "cluster.gpus_per_node=0 requests no GPU"
        if not self.requeue:
            found["max_requeues"] = "cluster.requeue=false disables requeueing"
        if not self.mail_user:
            found["mail_type"] = "cluster.mail_user is not set"
        if not self.container.image:
            for name in ("command", "python", "binds", "arguments"):
                found[f"container.{name}"] = "cluster.container.image is not set"
        elif not self.container.is_pyxis:
            found["python"] = "jobs in a container run cluster.container.python"
        if not self.server_nodes:
            found["servers"] = "cluster.server_nodes=0 starts no servers"
        return found

    def describe(self, jobs: list[Job]) -> str:
        return sharing.describe(jobs[0]) if sharing.is_shared(jobs[0]) else describe(jobs)

    def select(self, jobs: list[Job]) -> None:
        submitting.select(jobs)

    def check_rows(self, jobs: list[Job]) -> list[str]:
        """Check rows after SLURM has answered and would accept the jobs, because reading rows takes longer."""
        submitting.refuse_unfetched(jobs)
        submitting.plan(jobs)
        return super().check_rows(jobs)

    def submit(self, jobs: list[Job]) -> Submission:
        if sharing.is_shared(jobs[0]) and not jobs[0].skip:
            return sharing.submit(jobs[0])
        return submitting.submit(self, jobs)

    def submit_study(self, groups: list[list[Job]]) -> Submission:
        return study_chain.submit_study(groups)

    def light(self) -> dict[str, Any]:
        """Return settings for one CPU and no GPU for some minutes; all other keys stay as for other jobs."""
        one = {"nodes": 1, "gpus_per_node": 0, "gpu_type": None, "device": "cpu", "processes": 1, "cpus_per_process": 1}
        one |= {
            "threads": 1,
            "memory": "2G",
            "time": "20m",
            "stop_before_limit": "1m",
            "exclusive": False,
            "segments": 1,
        }
        return one | {"server_nodes": 0, "max_parallel": None, "runs_per_job": None, "runs_side_by_side": 1}

    def standings(self, runs: Sequence[Path]) -> dict[Path, Standing]:
        """Return SLURM's states; empty on a machine without SLURM, to which a sweep was copied."""
        if not shutil.which("squeue"):
            return {}
        queued = queued_runs(*dict.fromkeys(map(home_of, runs)))
        return {run: queued[run].standing() for run in runs if run in queued}

    def usage(self, runs: Sequence[Path]) -> dict[Path, Usage]:
        return usage_of(dict.fromkeys(map(home_of, runs)))

    def shell(self, run: Path) -> list[str]:
        return submitted.shell(run)

    def cancel(self, runs: Sequence[Path]) -> None:
        submitted.cancel(runs)

    def resubmit(self, jobs: list[Job], code: str) -> None:
        submitted.resubmit(jobs, code)
