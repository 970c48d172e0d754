"""`cluster=slurm`: jobs go to SLURM's queue, as arrays, and go on there by themselves."""

from dataclasses import dataclass

from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.slurm.dry_run import describe
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.submitting import select, submit


@dataclass
class Slurm(SlurmRequest):
    def describe(self, jobs: list[Job]) -> str:
        """What a dry run says of the jobs."""
        return describe(jobs)

    def select(self, jobs: list[Job]) -> None:
        """Say of every job why it is not to be submitted.

        Raises:
            UserError: if SLURM cannot be asked.
        """
        select(jobs)

    def submit(self, jobs: list[Job]) -> Submission:
        return submit(self, jobs)
