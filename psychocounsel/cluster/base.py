"""Contract of the group `cluster`: the methods that a place for running jobs must offer.

A kind of cluster is a Python file with a dataclass that derives from `Cluster`, and a YAML file that names it as its
`_target_`; the dataclass's fields are the keys of `cluster.*`. Both may be in the user's own folder (`--config-dir`).

Each process of a job is `python -m psychocounsel.worker RUN_DIR`, with the environment that `worker_environment` describes.
It saves on SIGTERM. Its exit code is 0 if it finished, 2 for wrong input, 3 if a `guard` limit, a gate or the budget
stopped it, 4 if a gate could not decide, and 75 if the same command can resume; any other code is a crash.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.row_process import check_rows, prepare_check
from psychocounsel.errors import UserError
from psychocounsel.rundir.owner import refuse_if_owned
from psychocounsel.settings.targets import GroupSettings
from psychocounsel.storage.files import with_noun


@dataclass(frozen=True)
class QueueState:
    """State of a submitted run as reported by the cluster."""

    task: str  # name of the job in the cluster's own commands
    phase: str  # waiting, running, ended, or forgotten
    reason: str = ""  # reason of waiting or of a cancellation
    nodes: str = ""  # names of the nodes
    ending: str = ""  # end of the run in a word or two: cancelled, timed out, completed
    was_ended: bool = False  # True if the cluster ended the job, so that the run could not record the reason
    log: Path | None = None  # output of the job outside the run's own processes
    jobs: Sequence[str] = ()  # numbers of all jobs of the run's newest submission

    @property
    def job(self) -> str:
        """Number of the job, without an array's index."""
        return self.task.partition("_")[0]

    @property
    def is_live(self) -> bool:
        return self.phase in ("waiting", "running")


@dataclass(frozen=True)
class Usage:
    """Resources used by a run's jobs. Memory in bytes: the peak of one process, and the requested memory per node."""

    cpu_seconds: float = 0.0
    allocated_cpu_seconds: float = 0.0
    memory: int = 0
    requested_memory: int = 0
    gpu_hours: float = 0.0


class NoAnswer(UserError):
    """The cluster is not here, or does not answer now; who waits for its jobs asks again."""


class Cluster(GroupSettings):
    """A place where jobs run. Nothing here imports torch."""

    config_group: ClassVar[str] = "cluster"
    has_queue: ClassVar[bool] = True  # False: `jobs resubmit` has nowhere to submit to

    # -- used when a configuration is checked

    @abstractmethod
    def gpus(self) -> int:
        """Return the number of GPUs that one run trains on, over all its nodes."""

    @abstractmethod
    def process_count(self) -> int:
        """Return the number of processes of one run: one per GPU if there are GPUs."""

    def first_node(self, processes: int) -> tuple[int, int]:
        """Return the numbers of a run's `processes` and GPUs on the node of rank 0; default: all are on one node."""
        return processes, self.gpus()

    def machines(self, processes: int) -> int:
        """Return the number of machines over which a run's `processes` are spread."""
        return max(1, processes // self.first_node(processes)[0])

    def host_memory(self) -> float | None:
        """Return the bytes of memory that a run may use on each of its machines; None (default): unknown."""
        return None

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UserError: naming the key and what to type instead.
        """

    def unused(self) -> dict[str, str]:
        """Return fields without effect under these settings, with reasons: typing one of them is refused."""
        return {}

    # -- used by commands that start jobs

    def describe(self, jobs: list[Job]) -> str:
        """Return the output of `dry_run=true`.

        Raises:
            UserError: if submitting would fail.
        """
        self.select(jobs)
        return "\n".join(
            f"{job.run_dir} is already finished: nothing would run"
            if job.finished
            else f"would run {job.command.module.replace('.', ' ')} with {self.place(job)}: "
            + (" ".join(job.overrides) or "defaults")
            for job in jobs
        )

    def place(self, job: Job) -> str:
        """Describe a job's number of processes and its place, for people."""
        return f"{with_noun(job.processes, 'process')} in {job.run_dir}"

    def select(self, jobs: list[Job]) -> None:
        """Set `skip` of each job that must not be started, to the reason.

        Raises:
            UserError: if a live process owns a job's directory, or a job cannot be started now.
            GoOnLater: inside a job, if that process does not end.
        """
        for job in jobs:
            refuse_if_owned(job.run_dir)
            if not job.finished:
                job.command.refuse_others_at_work(job.config, job.run_dir)
            job.skip = "finished" if job.finished else ""

    def check_rows(self, jobs: list[Job]) -> list[str]:
        """Check the rows of the jobs to be started in a separate process, store them for the jobs, and return lines about them.

        Raises:
            UserError: for rows that a job cannot use.
        """
        return check_rows(jobs)

    def prepare_check(self, job: Job) -> None:
        """Start the imports that `check_rows` needs. Called with the first of many jobs, while the others are composed."""
        prepare_check(job)

    @abstractmethod
    def submit(self, jobs: list[Job]) -> Submission:
        """Start the jobs without `skip`. Return when they have ended, or at once if they are queued.

        The run directories of these jobs are already written.

        Raises:
            UserError: if they cannot be started; then nothing is left behind.
        """

    # -- used by `psychocounsel launch`

    def submit_study(self, groups: list[list[Job]]) -> Submission:
        """Start the jobs of a study, each after the jobs in its `after` have succeeded, and return.

        `groups` are ordered so that each job comes after the jobs that it needs. Jobs with `finished` are not started,
        waiting and running ones are left alone, and unfinished ones resume. The run directories are not written yet.

        Raises:
            UserError: if they cannot be started; then nothing is left behind.
        """
        raise UserError(
            f"cluster={type(self).__name__}: runs no studies; launch runs them with cluster=local or cluster=slurm"
        )

    def light(self) -> dict[str, Any]:
        """Return the keys of `cluster.*` to override for a job of a few seconds that only reads and writes small files."""
        return {}

    # -- used by `psychocounsel jobs`

    def queue_states(self, runs: Sequence[Path]) -> dict[Path, QueueState]:
        """Return the states of runs of one folder; for a run without an entry, its own files tell the state.

        Raises:
            NoAnswer: if the cluster does not answer.
        """
        return {}

    def usage(self, runs: Sequence[Path]) -> dict[Path, Usage]:
        """Return the resources used by the jobs of ended runs, if the cluster keeps accounts."""
        return {}

    def shell(self, run: Path) -> list[str]:
        """Return the command that opens a shell on the node of a live run. Default: not supported.

        Raises:
            UserError: if the run is not running, or the cluster offers no shell.
        """
        raise UserError(f"{run}: its cluster offers no shell on a run's node")

    def cancel(self, runs: Sequence[Path]) -> None:
        """Cancel runs that wait or run; they can be resumed later.

        Raises:
            UserError: if they cannot be cancelled.
        """
        raise UserError(f"cluster={type(self).__name__}: cannot cancel runs")

    def resubmit(self, jobs: list[Job], code: str) -> None:
        """Submit unfinished jobs again, with the `same` code as before or the `current` code.

        Raises:
            UserError: if they cannot be submitted; then nothing is left behind.
        """
        raise UserError(f"cluster={type(self).__name__}: cannot resubmit runs; give the command of the run again")
