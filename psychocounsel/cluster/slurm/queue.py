"""SLURM's commands, the states of submitted runs in its queue, and submissions whose record was lost."""

import contextlib
import ctypes
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psychocounsel.cluster.base import NoAnswer, QueueState
from psychocounsel.cluster.slurm.request import parse_slurm_time
from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.submissions import Record, read

# `SBATCH_*` variables of the submitting shell, which sbatch would prefer to the script's directives.

# Directives for which the shell may set a site's default, used if the configuration sets none.
_DEFAULTS = ("account", "partition", "qos", "reservation", "constraint")
_OF_SLURM = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SINFO_", "SACCT_")


def for_sbatch(environment: Mapping[str, str], script: str) -> tuple[dict[str, str], list[str]]:
    """Return the environment for sbatch, and a line for each `SBATCH_*` variable in `environment`.

    `SBATCH_ACCOUNT` and similar are kept if `script` has no such directive. All other `SBATCH_*` variables are removed, because
    the configuration decides. `SLURM_*` variables except `SLURM_CONF` are removed too, because they describe the current job,
    and so are options of the other commands: `SQUEUE_PARTITION` would hide runs, which would then be submitted twice.
    """
    kept, notes = dict[str, str](), list[str]()
    for name, value in environment.items():
        key = name.removeprefix("SBATCH_").lower()
        if name == "SLURM_CONF" or not name.startswith(_OF_SLURM):
            kept[name] = value
        elif name.startswith("SBATCH_") and key in _DEFAULTS and not _has(script, key):
            kept[name] = value
            notes.append(f"cluster.{key} is not set: the shell's {name} is used")
        elif name.startswith("SBATCH_"):
            notes.append(f"{name} of the shell is ignored: cluster.* and cluster.sbatch.* set the options of jobs")
    return kept, notes


def _has(script: str, key: str) -> bool:
    return re.search(rf"^#SBATCH --{key}=", script, re.MULTILINE) is not None


# SLURM's commands. sacct is not needed, because many sites have no accounting.

LIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
LIVE |= {"RESIZING", "STOPPED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_SECONDS = 60  # a busy controller answers late
_shown_notes = set[str]()  # printed lines about variables of the shell
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Task:
    """A job, or an index of an array, as squeue reports it."""

    job: str  # id of the job, or of the array
    index: int | None  # index in the array
    state: str
    reason: str
    nodes: str

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def name(self) -> str:
        return self.job if self.index is None else f"{self.job}_{self.index}"


_SILENT = (
    "configuration source",
    "process configuration file",
    "Unable to contact slurm",
    "Connection refused",
    "Socket timed out",
)  # its own words


def call(command: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the output of a SLURM command, run in `environment` (default: this process's, filtered by `for_sbatch`).

    Raises:
        NoAnswer: if the command is missing, or the controller does not answer.
        UserError: if the command refuses, with its own message.
    """
    if shutil.which(command) is None:
        raise NoAnswer(
            f"cluster=slurm: the command `{command}` is missing; submit from a login node of the cluster, or use cluster=local"
        )
    env = for_sbatch(os.environ, "")[0] if environment is None else environment
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": env, "preexec_fn": end_with_parent}
    try:
        done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=_SECONDS, **options)
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(
            f"{command} gave no answer for {_SECONDS} s: is SLURM's controller up? (`scontrol ping`)"
        ) from error
    if done.returncode:
        words = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        words = [line for line in words if ": fatal: " in line] or words  # lines before the fatal one are not the cause
        kind = (
            NoAnswer if any(words_of_silence in line for line in words for words_of_silence in _SILENT) else UserError
        )
        raise kind(f"{command} refused: {'; '.join(words)[:500] or f'exit code {done.returncode}'}")
    return done.stdout


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send signal `number` to this process when its parent dies (Linux).

    Otherwise an sbatch could outlive the command that started it, and submit a job that no submission records.
    """
    _LIBC.prctl(1, number)


def submit(script: Path, *arguments: str) -> str:
    """Submit a script; return the job's id.

    Raises:
        UserError: with the site's own message, or if sbatch names no job.
    """
    environment, notes = for_sbatch(os.environ, script.read_text() if script.exists() else "")
    for line in notes:
        if line not in _shown_notes:
            _shown_notes.add(line)
            print(line, file=sys.stderr)
    try:
        printed = call("sbatch", "--parsable", *arguments, str(script), environment=environment)
    except UserError as error:
        raise UserError(f"{error}{_advice(str(error))}") from error
    # A site's wrapper may print further lines, or leave --parsable out.
    if not (ids := re.findall(r"^(?:Submitted batch job )?(\d+)(?:;\S*| on cluster \S+)?\s*$", printed, re.MULTILINE)):
        raise UserError(
            f"sbatch printed no job id for {script}: is it a wrapper of your site that prints something else?"
        )
    return str(ids[-1])


_REFUSALS = {  # words of sbatch, and what to do about them
    r"QOS\w*(Submit|Jobs?)|MaxSubmit|AssocMaxSubmit|submit limit": "The site limits submitted jobs: "
    "cluster.runs_per_job=N puts N runs into one job, one after another",
    r"Invalid account": "Give one of your accounts (`sacctmgr show assoc user=$USER`) as cluster.account=NAME",
    r"Invalid qos": "Give a QOS of your account (`sacctmgr show assoc user=$USER`) as cluster.qos=NAME",
    r"Memory specification|Requested node configuration": "cluster.memory, gpus_per_node and cpus_per_process are per "
    "node (`sinfo -o '%P %c %m %G'` shows the nodes)",
}


def _advice(message: str) -> str:
    return next((f". {said}" for words, said in _REFUSALS.items() if re.search(words, message, re.IGNORECASE)), "")


def tasks(jobs: Iterable[str], owners: Iterable[int] = ()) -> list[Task]:
    """Return every job or array index of `jobs` that SLURM still knows; one call of squeue.

    Args:
        owners: user ids of those who submitted the jobs, in addition to this process's user.
    """
    wanted = set(jobs)
    if not wanted:
        return []
    form = "%F|%K|%T|%r|%N"
    users = ",".join(sorted({user(), *_names(owners)}))  # all users' jobs may be too many
    printed = call("squeue", "-h", "-r", "-t", "all", "-u", users, "-o", form)
    listed = []
    for line in printed.splitlines():
        job, index, state, reason, nodes = line.split("|")
        if job in wanted:
            number = int(index) if index.isdigit() else None
            listed.append(Task(job, number, state, reason, nodes))
    return listed


def jobs_of_scripts() -> dict[str, list[str]]:
    """Return the ids of this user's jobs that SLURM still knows, by the path of their script."""
    by_script: dict[str, set[str]] = {}
    for line in call("squeue", "-h", "-t", "all", "-u", user(), "-o", "%F|%o").splitlines():
        job, _, script = line.partition("|")
        by_script.setdefault(script.strip(), set()).add(job)
    return {script: sorted(jobs, key=int) for script, jobs in by_script.items()}


def user() -> str:
    import getpass

    return getpass.getuser()


def _names(owners: Iterable[int]) -> Iterator[str]:
    """Yield the names of users; one whose account is gone has no jobs, and squeue would refuse the id."""
    for owner in set(owners):
        with contextlib.suppress(KeyError):
            yield pwd.getpwuid(owner).pw_name


def cancel(names: Sequence[str]) -> None:
    """Cancel jobs or array indices, given as 12 or 12_3."""
    if names:
        call("scancel", *names)


def max_array_size() -> int:
    """Return the largest size of an array at this site."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"))
    return max(1, int(match[1])) if match else 1001


def time_limit(partition: str | None) -> tuple[str, float] | None:
    """Return name and time limit (seconds) of a partition, or of the default one; None if unknown.

    Of several partitions (`a,b`), SLURM takes one that allows the job, so the longest limit counts.

    Raises:
        UserError: for an unknown partition, with those that exist; or as `call` raises it.
    """
    blocks = call("scontrol", "--all", "-o", "show", "partition").splitlines()
    known = [dict(part.split("=", 1) for part in block.split() if "=" in part) for block in blocks]
    limits = {values.get("PartitionName", "?"): parse_slurm_time(values.get("MaxTime", "")) for values in known}
    names = (
        partition.split(",")
        if partition
        else [name for name, values in zip(limits, known, strict=True) if values.get("Default") == "YES"]
    )
    if unknown := [name for name in names if name not in limits]:
        raise UserError(
            f"cluster.partition={partition}: there is no partition {unknown[0]}; choose from {', '.join(limits)}"
        )
    return (",".join(names), max(limits[name] for name in names)) if names else None


# Submissions whose command was killed before it recorded SLURM's answer.
#
# A submission's folder is made before sbatch is called, with its script and a record that names its runs and no job. If the
# record still names no job after the command has ended, SLURM tells which jobs run the script, if any.


def find_lost(homes: Sequence[Path]) -> None:
    """Find submissions whose record names no job: record their jobs, or remove those that never reached the queue.

    Folders from which a live process submits are left alone.

    Raises:
        UserError: if a submission without recorded jobs exists and SLURM does not answer.
    """
    for home in homes:
        if submissions.unsubmitted(home) and not submissions.is_being_submitted(home):
            _find_lost(home)


def _find_lost(home: Path) -> None:
    with submissions.submitting(home):
        lost = submissions.unsubmitted(home)  # another command may have found them in the meantime
        known = jobs_of_scripts() if lost else {}
        for submission in lost:
            jobs = {*known.get(str(submission.script), []), *submission.begun_jobs()}
            if not jobs:
                submissions.remove(submission)
            elif submission.record.exists():
                submissions.adopt(submission, sorted(jobs, key=int))


# State of each submitted run in SLURM's queue.

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
    task: Task | None

    @property
    def is_live(self) -> bool:
        return self.task is not None and self.task.is_live

    @property
    def waits(self) -> bool:
        """True if it has not started, and can still start."""
        return self.task is not None and self.task.state == "PENDING"

    def queue_state(self) -> QueueState:
        """State in the terms shared by all clusters."""
        task = self.task
        name = self.record.task_name(self.index) if task is None else task.name
        known = QueueState(name, "forgotten", log=self.record.files.job_log(name), jobs=self.record.jobs)
        if task is None:
            return known
        if task.is_live:
            phase = "waiting" if task.state == "PENDING" else "running"
            return replace(known, phase=phase, reason=task.reason, nodes=task.nodes)
        was_ended, ending = task.state in _ENDED_BY_SLURM, _ENDED_BY_SLURM.get(task.state, task.state.lower())
        return replace(known, phase="ended", reason=task.reason, ending=ending, was_ended=was_ended)


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
    live: dict[Path, list[str]] = {}
    for record in records:
        for index, runs in enumerate(record.tasks):
            names = [name for name in record.task_names(index) if name in known and known[name].is_live]
            for run in runs:
                live.setdefault(run, []).extend(names)
    return live


def _telling(known: dict[str, Task], record: Record, index: int) -> Task | None:
    """Return the live segment of a chain, otherwise the last known one."""
    segments = [known[name] for name in record.task_names(index) if name in known]
    running = [task for task in segments if task.is_live]
    return next((task for task in running if task.state != "PENDING"), None) or next(
        iter(running or segments[::-1]), None
    )


def _known(records: Sequence[Record]) -> dict[str, Task]:
    """Return the tasks of all records that SLURM still knows, by name."""
    jobs = [job for record in records for job in record.jobs]
    return {task.name: task for task in tasks(jobs, {record.owner for record in records})}
