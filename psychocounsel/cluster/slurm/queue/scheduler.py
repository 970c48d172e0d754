"""Calls of SLURM's commands, with refusals in one line. sacct is not needed, because many sites have no accounting."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.cluster.slurm.queue.shell_variables import for_sbatch
from psychocounsel.cluster.slurm.units import parse_slurm_time
from psychocounsel.errors import UserError

LIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
LIVE |= {"RESIZING", "STOPPED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_SECONDS = 60  # a busy controller answers late
_said = set[str]()  # printed lines about variables of the shell
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


def call(command: str, *arguments: str, stdin: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Return the output of a SLURM command, run in `environment` (default: this process's, filtered by `for_sbatch`).

    Raises:
        UserError: if the command is missing, does not answer, or refuses; with its own message.
    """
    if shutil.which(command) is None:
        raise UserError(
            f"cluster=slurm: the command `{command}` is missing; submit from a login node of the cluster, or use cluster=local"
        )
    env = for_sbatch(os.environ, "")[0] if environment is None else environment
    options: dict[str, Any] = {"input": stdin, "env": env, "preexec_fn": _end_with_this_process}
    try:
        done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=_SECONDS, **options)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{command} gave no answer for {_SECONDS} s: is SLURM's controller up? (`scontrol ping`)"
        ) from error
    if done.returncode:
        words = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        words = [line for line in words if ": fatal: " in line] or words  # lines before the fatal one are not the cause
        raise UserError(f"{command} refused: {'; '.join(words)[:500] or f'exit code {done.returncode}'}")
    return done.stdout


def _end_with_this_process() -> None:
    """Let the command die with this process, because a surviving sbatch would submit a job that counts as lost."""
    _LIBC.prctl(1, signal.SIGKILL)


def submit(script: Path, *arguments: str) -> str:
    """Submit a script; return the job's id.

    Raises:
        UserError: with the site's own message, or if sbatch names no job.
    """
    environment, said = for_sbatch(os.environ, script.read_text() if script.exists() else "")
    for line in said:
        if line not in _said:
            _said.add(line)
            print(line, file=sys.stderr)
    try:
        printed = call("sbatch", "--parsable", *arguments, str(script), environment=environment)
    except UserError as error:
        raise UserError(f"{error}{_advice(str(error))}") from error
    if not (lines := printed.strip().splitlines()):
        raise UserError(
            f"sbatch printed no job id for {script}: is it a wrapper of your site that prints something else?"
        )
    return lines[-1].split(";")[0]


def _advice(message: str) -> str:
    if re.search(r"QOS\w*(Submit|Jobs?)|MaxSubmit|AssocMaxSubmit|submit limit", message, re.IGNORECASE):
        return ". The site limits submitted jobs: cluster.runs_per_job=N puts N runs into one job, one after another"
    return ""


def tasks(jobs: Iterable[str], owners: Iterable[int] = ()) -> list[Task]:
    """Return every job or array index of `jobs` that SLURM still knows; one call of squeue.

    Args:
        owners: user ids of those who submitted the jobs, in addition to this process's user.
    """
    wanted = set(jobs)
    if not wanted:
        return []
    form = "%F|%K|%T|%r|%N"
    users = ",".join(sorted({_user(), *_names(owners)}))  # all users' jobs may be too many
    printed = call("squeue", "-h", "-r", "-t", "all", "-u", users, "-o", form)
    found = []
    for line in printed.splitlines():
        job, index, state, reason, nodes = line.split("|")
        if job in wanted:
            number = int(index) if index.isdigit() else None
            found.append(Task(job, number, state, reason, nodes))
    return found


def jobs_of_scripts() -> dict[str, list[str]]:
    """Return the ids of this user's jobs that SLURM still knows, by the path of their script."""
    found: dict[str, set[str]] = {}
    for line in call("squeue", "-h", "-t", "all", "-u", _user(), "-o", "%F|%o").splitlines():
        job, _, script = line.partition("|")
        found.setdefault(script.strip(), set()).add(job)
    return {script: sorted(jobs, key=int) for script, jobs in found.items()}


def _user() -> str:
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
    """Return name and time limit (seconds) of a partition, or of the default one; None if unknown."""
    for block in call("scontrol", "-o", "show", "partition", *([partition] if partition else [])).splitlines():
        values = dict(part.split("=", 1) for part in block.split() if "=" in part)
        if partition or values.get("Default") == "YES":
            return values.get("PartitionName", "?"), parse_slurm_time(values.get("MaxTime", ""))
    return None
