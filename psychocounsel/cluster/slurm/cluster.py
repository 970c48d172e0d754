"""`cluster=slurm`: jobs go to SLURM's queue, as arrays, and go on there by themselves."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psychocounsel.cluster.base import Cluster, Standing
from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.slurm import submitted, submitting
from psychocounsel.cluster.slurm.dry_run import describe
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.standings import queued_runs
from psychocounsel.rundir.submissions import home_of


@dataclass
class Slurm(SlurmRequest, Cluster):
    def describe(self, jobs: list[Job]) -> str:
        return describe(jobs)

    def select(self, jobs: list[Job]) -> None:
        submitting.select(jobs)

    def submit(self, jobs: list[Job]) -> Submission:
        return submitting.submit(self, jobs)

    def standings(self, runs: Sequence[Path]) -> dict[Path, Standing]:
        """Nothing where there is no SLURM: on the machine to which a sweep was copied."""
        if not shutil.which("squeue"):
            return {}
        queued = queued_runs(home_of(runs[0]))
        return {run: queued[run].standing() for run in runs if run in queued}

    def cancel(self, runs: Sequence[Path]) -> None:
        submitted.cancel(runs)

    def resubmit(self, jobs: list[Job], code: str) -> None:
        submitted.resubmit(jobs, code)
