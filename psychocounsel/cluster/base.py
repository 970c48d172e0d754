"""The contract of the group `cluster`: what a place where jobs run has to offer.

A kind of cluster is one Python file with a dataclass that derives from `Cluster`, and one YAML file that names it as its
`_target_`; the dataclass's fields are the keys of `cluster.*`. Both may lie in a folder of the user's own (`--config-dir`).

Each process of a job is `python -m psychocounsel.worker RUN_DIR`, with the environment that `worker_environment` describes.
It saves on SIGTERM, and its exit code says how it ended: 0 finished, 2 wrong input, 3 a limit of `guard` stopped it, 75 the
same command goes on; anything else is a crash.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.annotation.checking import refuse_others_at_work
from psychocounsel.cluster.checking.row_process import check_rows
from psychocounsel.cluster.job import Job, Submission
from psychocounsel.errors import UserError
from psychocounsel.rundir.owner import refuse_if_owned


@dataclass(frozen=True)
class Standing:
    """How the cluster says that a submitted run stands."""

    task: str  # what its own commands call it
    phase: str  # waiting, running, ended, or forgotten
    reason: str = ""  # why it waits, or was cancelled
    nodes: str = ""  # where it runs
    elapsed: float = 0.0  # seconds since it began
    ending: str = ""  # how it ended, in a word or two: cancelled, timed out, completed
    was_ended: bool = False  # by the cluster, so that the run itself could not say why
    log: Path | None = None  # what the job printed around the run's own processes

    @property
    def is_live(self) -> bool:
        return self.phase in ("waiting", "running")


@dataclass(frozen=True)
class Usage:
    """What the jobs of a run used. Memory in bytes: the most that one process had, and what the jobs asked for on a node."""

    cpu_seconds: float = 0.0
    allocated_cpu_seconds: float = 0.0
    memory: int = 0
    requested_memory: int = 0
    gpu_hours: float = 0.0


class Cluster(ABC):
    """Where jobs run. Nothing here imports torch."""

    # -- asked when a configuration is checked

    @abstractmethod
    def gpus(self) -> int:
        """GPUs that one run trains on, over all its nodes."""

    @abstractmethod
    def process_count(self) -> int:
        """Processes of one run: one per GPU where there are GPUs."""

    def first_node(self, processes: int) -> tuple[int, int]:
        """How many of a run's `processes` are on the node of rank 0, and how many GPUs are; default: all are on one node."""
        return processes, self.gpus()

    def check(self) -> None:  # noqa: B027 (a kind may have nothing to refuse)
        """Refuse settings that cannot work.

        Raises:
            UserError: naming the key and what to type instead.
        """

    def unused(self) -> dict[str, str]:
        """Fields that nothing reads with these settings, each with the reason: typing one of them is refused."""
        return {}

    # -- asked by commands that start jobs

    def describe(self, jobs: list[Job]) -> str:
        """What `dry_run=true` prints.

        Raises:
            UserError: where submitting would fail.
        """
        self.select(jobs)
        return "\n".join(
            f"would run {job.module} with {self.place(job)}: {' '.join(job.overrides) or 'defaults'}" for job in jobs
        )

    def place(self, job: Job) -> str:
        """With how many processes and where a job runs, for people."""
        processes = "1 process" if job.processes == 1 else f"{job.processes} processes"
        return f"{processes} in {job.run_dir}"

    def select(self, jobs: list[Job]) -> None:
        """Set `skip` of each job that is not to be started, to the reason.

        Raises:
            UserError: if a live process owns a job's directory, or a job cannot be started now.
            GoOnLater: inside a job, if that process does not end.
        """
        for job in jobs:
            refuse_if_owned(job.run_dir)
            if job.makes_tables and not job.finished:
                refuse_others_at_work(job.config, job.run_dir)
            job.skip = "finished" if job.finished else ""

    def check_rows(self, jobs: list[Job]) -> list[str]:
        """Lines about the rows of jobs that are to be started, read in a process of its own and kept for the jobs.

        Raises:
            UserError: for rows that a job cannot use.
        """
        return check_rows(jobs)

    @abstractmethod
    def submit(self, jobs: list[Job]) -> Submission:
        """Start the jobs without `skip`; their run directories are written. Wait for them, or leave.

        Raises:
            UserError: if they cannot be started; then nothing is left behind.
        """

    # -- asked by `psychocounsel.launch`

    def submit_study(self, groups: list[list[Job]]) -> Submission:
        """Start the jobs of a study, each when those that it comes `after` have ended well, and leave.

        `groups` are in an order in which each job stands behind those that it needs. Jobs with `finished` are not started; what
        waits or runs is left as it is, and what ended unfinished goes on. The run directories are yet to be written.

        Raises:
            UserError: if they cannot be started; then nothing is left behind.
        """
        raise UserError(
            f"cluster={type(self).__name__}: runs no studies; launch runs them with cluster=local or cluster=slurm"
        )

    def light(self) -> dict[str, Any]:
        """The keys of `cluster.*` with other values for a job of seconds that only reads and writes small files."""
        return {}

    # -- asked by `psychocounsel.jobs`

    def standings(self, runs: Sequence[Path]) -> dict[Path, Standing]:
        """How runs of one folder stand; without an entry, their own files tell.

        Raises:
            UserError: if the cluster does not answer.
        """
        return {}

    def usage(self, runs: Sequence[Path]) -> dict[Path, Usage]:
        """What the jobs of ended runs used, as far as the cluster keeps account of it."""
        return {}

    def shell(self, run: Path) -> list[str]:
        """The command that opens a shell beside the processes of a live run. Default: there is no such thing.

        Raises:
            UserError: if the run is not running, or the cluster offers no shell.
        """
        raise UserError(f"{run}: its cluster offers no shell beside a run")

    def cancel(self, runs: Sequence[Path]) -> None:
        """End runs that wait or run; they can go on later.

        Raises:
            UserError: if they cannot be ended.
        """
        raise UserError(f"cluster={type(self).__name__}: cannot cancel runs")

    def resubmit(self, jobs: list[Job], code: str) -> None:
        """Submit jobs again that ended unfinished. `code`: with the `same` code as before, or the `current` one.

        Raises:
            UserError: if they cannot be submitted; then nothing is left behind.
        """
        raise UserError(f"cluster={type(self).__name__}: cannot resubmit runs; give the command of the run again")
