"""`dry_run=true` with `cluster=slurm`: the jobs that would be submitted, and their cost."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from psychocounsel.blocks.terminal import aligned
from psychocounsel.cluster.base import NoAnswer
from psychocounsel.cluster.job import Job
from psychocounsel.cluster.memory import check
from psychocounsel.cluster.memory.host import Machines
from psychocounsel.cluster.slurm import submitting
from psychocounsel.cluster.slurm.array_request import ArrayRequest, arrays, code_home, home, job_name
from psychocounsel.cluster.slurm.code_copies import store_of
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.script import render
from psychocounsel.cluster.slurm.shortages import disk_line, warnings_of
from psychocounsel.rundir.paths import SubmissionHome
from psychocounsel.storage.files import readable_time, with_noun


def describe(jobs: Sequence[Job]) -> str:
    """Return the jobs' possible cost, memory and disk, then the jobs; with dry_run=script each distinct batch script instead.

    Without an answer of SLURM, a line says what was not checked.

    Raises:
        UserError: if submitting would fail.
    """
    unchecked, mixtures = list[str](), list[str]()
    try:
        submitting.select(jobs)
        new = [job for job in jobs if not job.skip]
        todo = submitting.plan(new) if new else []
        mixtures = submitting.mixture_warnings(todo)
    except NoAnswer as silence:
        unchecked = [f"not checked: limits of the partition, and runs that wait in the queue ({silence})"]
        for job in jobs:
            job.skip = "finished" if job.finished else job.skip
        new = [job for job in jobs if not job.skip]
        for job in new:
            submitting.refuse_missing(job.after)
        todo = arrays(new, len(new) + 1)
    place = home(jobs[0])
    if jobs[0].config.dry_run == "script":
        return "\n\n".join(_scripts(todo, place)) or "nothing would be submitted"
    cost = [*map(_demand, todo), *_memory(todo), *mixtures, *warnings_of(new), disk_line(place, new), ""] if new else []
    tail = ["", "the batch script: dry_run=script"] if new else []
    return "\n".join([*unchecked, *cost, *_table(jobs), *tail])


def _table(jobs: Sequence[Job]) -> list[str]:
    """Return one line per job, with the overrides common to all jobs in a line above."""
    given = [list(map(str, job.overrides)) for job in jobs]
    shared = [text for text in given[0] if len(jobs) > 1 and all(text in texts for texts in given)]
    rows = [[str(job.index), job.skip or "new", " ".join(text for text in texts if text not in shared) or "defaults"]
            for job, texts in zip(jobs, given, strict=True)]  # fmt: skip
    head = [f"all {len(jobs)} have {' '.join(shared)}"] if shared else []
    return [*head, *aligned([["index", "would be", "overrides"], *rows])]


def _scripts(todo: Sequence[ArrayRequest], place: Path) -> Iterator[str]:
    for number, array in enumerate(todo, 1):
        folder = SubmissionHome(place).submission(f"NNN{number}").path
        output = Path(array.tasks[0][0].config.paths.output)
        code = [store_of(code_home(place), output) / "COPY"]
        name, tasks = job_name(place), len(array.tasks)
        script = render(array.cluster, name, folder, tasks, code, [], array.dependency, array.syncs)
        runs = sum(map(len, array.tasks))
        yield f"# script {number} of {len(todo)}, for {with_noun(runs, 'run')}\n{script.rstrip()}"


def _demand(array: ArrayRequest) -> str:
    cluster = array.cluster
    nodes = cluster.nodes + cluster.server_nodes
    width = min(len(array.tasks), cluster.max_parallel or len(array.tasks))
    hours = cluster.seconds / 3600 * len(array.tasks) * nodes * (cluster.gpus_per_node or 1)
    unit = "GPU-hours" if cluster.gpus_per_node else "node-hours"
    times = 1 + cluster.max_requeues if cluster.requeue else cluster.segments
    requeues, segments = with_noun(cluster.max_requeues, "requeue"), with_noun(cluster.segments, "segment")
    more = f"{requeues} (cluster.max_requeues)" if cluster.requeue else f"{segments} (cluster.segments)"
    repeated = f"; {hours * times:,.0f} with {more}" if times > 1 else ""
    return (
        f"at most {hours:,.0f} {unit} an attempt{repeated}\n"
        f"{with_noun(len(array.tasks), 'job')} of {with_noun(nodes, 'node')}, {_each(cluster)}, "
        f"up to {readable_time(cluster.seconds)} each, "
        f"{width} at a time"
    )


def _each(cluster: SlurmRequest) -> str:
    gpus = with_noun(cluster.gpus_per_node, f"{cluster.gpu_type or ''} GPU".strip())
    return f"{gpus} and {with_noun(cluster.tasks_per_node, 'process')} per node"


def _memory(todo: Sequence[ArrayRequest]) -> list[str]:
    """Return the GPU and host memory for each distinct estimate, and the settings that would fit if it is too much."""
    lines = []
    for cluster, tasks in ((array.cluster, array.tasks) for array in todo):
        if gpus := cluster.gpus():
            size, machines = cluster.gpu_memory_gb, Machines(cluster.nodes, cluster.host_memory())
            for config in (job.config for task in tasks for job in task if job.command.trains):
                lines.append(check.memory_line(config, gpus, size, machines))
                lines += check.host_line(config, gpus, machines, size)
    return list(dict.fromkeys(lines))
