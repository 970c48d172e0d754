"""Resources used by ended jobs, from SLURM's accounting (`sacct`), if the site has it."""

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from psychocounsel.cluster.base import Usage
from psychocounsel.cluster.slurm import queue
from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions

_FIELDS = "JobID,ElapsedRaw,AllocCPUS,TotalCPU,MaxRSS,ReqMem,AllocNodes,AllocTRES"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


def usage_of(homes: Iterable[Path]) -> dict[Path, Usage]:
    """Return the resources used by each run that was submitted from `homes`, over all attempts and submissions.

    Empty without accounting. Runs that share a job with others are skipped.
    """
    names: dict[Path, list[str]] = {}
    records = [record for home in homes for record in submissions.read(home)]
    for record in records:
        for index, runs in enumerate(record.tasks):
            if len(runs) == 1:
                names.setdefault(runs[0], []).extend(record.task_names(index))
    if not names or not shutil.which("sacct"):
        return {}
    jobs = ",".join(dict.fromkeys(job for record in records for job in record.jobs))
    try:
        printed = queue.call("sacct", "-n", "--parsable2", "--duplicates", f"--format={_FIELDS}", "-j", jobs)
    except UserError:  # accounting is disabled, or its database does not answer
        return {}
    used = read(printed)
    return {
        run: sum_of(usages)
        for run, task_names in names.items()
        if (usages := [used[name] for name in task_names if name in used])
    }


def ran_out_of_memory(job: str) -> bool:
    """Return True if accounting says that a step of the job was killed for lack of memory."""
    if not job or not shutil.which("sacct"):
        return False
    try:
        return "OUT_OF_ME" in queue.call("sacct", "-n", "--parsable2", "--format=State", "-j", job)
    except UserError:
        return False


def read(printed: str) -> dict[str, Usage]:
    """Return the usage of each job or array index from the lines of sacct; the memory comes from the job's steps."""
    usages: dict[str, Usage] = {}
    for line in printed.splitlines():
        parts = line.split("|")
        if len(parts) != len(_FIELDS.split(",")) or not re.fullmatch(r"\d+(_\d+)?(\..+)?", parts[0]):
            continue  # several waiting indices, as 12_[3-9]
        job, _, step = parts[0].partition(".")
        elapsed, cpus, nodes = (int(text) if text.isdigit() else 0 for text in (parts[1], parts[2], parts[6]))
        if step:
            used = Usage(memory=_bytes(parts[4]))
        else:
            gpus = re.search(r"gres/gpu=(\d+)", parts[7])
            hours = elapsed * int(gpus[1]) / 3600 if gpus else 0.0
            used = Usage(_seconds(parts[3]), elapsed * cpus, 0, _requested(parts[5], cpus, nodes), hours)
        usages[job] = sum_of([usages[job], used]) if job in usages else used
    return usages


def sum_of(usages: Sequence[Usage]) -> Usage:
    """Return the usage of several jobs or attempts: times are summed, the largest memory counts."""
    return Usage(
        sum(one.cpu_seconds for one in usages),
        sum(one.allocated_cpu_seconds for one in usages),
        max(one.memory for one in usages),
        max(one.requested_memory for one in usages),
        sum(one.gpu_hours for one in usages),
    )


def _seconds(text: str) -> float:
    """Return seconds of [DAYS-][HH:]MM:SS[.mmm]."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = total * 60 + (float(part) if re.fullmatch(r"[\d.]+", part) else 0.0)
    return (int(days) if days.isdigit() else 0) * 86400 + total


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)([KMGTP]?)", text)
    return round(float(match[1]) * _UNITS[match[2]]) if match else 0


def _requested(text: str, cpus: int, nodes: int) -> int:
    """Return the bytes requested on one node. SLURM before 21.08 marks a size as per node (64Gn) or per CPU (2Gc)."""
    whole = _bytes(text.rstrip("nc"))
    if text.endswith("c"):
        return whole * cpus // max(1, nodes)
    return whole if text.endswith("n") else whole // max(1, nodes)
