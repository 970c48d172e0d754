"""`dry_run=true` with `cluster=slurm`: what would be submitted, and what it would take."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from psychocounsel.cluster import memory
from psychocounsel.cluster.job import Job
from psychocounsel.cluster.slurm import submitting
from psychocounsel.cluster.slurm.array_request import ArrayRequest, home, job_name
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.script import render
from psychocounsel.rundir.paths import SubmissionHome
from psychocounsel.storage.files import readable_size, readable_time


def describe(jobs: Sequence[Job]) -> str:
    """The job table, each distinct batch script, GPU-hours at the limit and disk.

    Raises:
        UserError: where submitting would fail.
    """
    submitting.select(jobs)
    new = [job for job in jobs if not job.skip]
    place = home(jobs)
    lines = [f"{job.index:>5}  {job.skip or 'new':<12}  {' '.join(job.overrides) or 'defaults'}" for job in jobs]
    if not new:
        return "\n".join(["index  would be     overrides", *lines])
    todo = submitting.plan(new)
    for number, array in enumerate(todo, 1):
        folder = SubmissionHome(place).submission(f"NNN{number}").path
        code = [SubmissionHome(place).code / "COPY"]
        script = render(array.cluster, job_name(place), folder, len(array.tasks), code, [], array.dependency)
        runs = sum(map(len, array.tasks))
        lines += ["", f"-- script {number} of {len(todo)}, for {runs} runs", script.rstrip()]
    lines += ["", *(_demand(array) for array in todo), *_memory(todo), _disk(place, new)]
    return "\n".join(["index  would be     overrides", *lines])


def _demand(array: ArrayRequest) -> str:
    cluster = array.cluster
    seconds = cluster.seconds * len(array.tasks) * cluster.segments
    nodes = cluster.nodes + cluster.server_nodes
    width = min(len(array.tasks), cluster.max_parallel or len(array.tasks))
    hours = (
        f"{seconds / 3600 * nodes * cluster.gpus_per_node:,.0f} GPU-hours"
        if cluster.gpus_per_node
        else (f"{seconds / 3600 * nodes:,.0f} node-hours")
    )
    return (
        f"{len(array.tasks)} jobs of {nodes} nodes, {_each(cluster)}, up to {readable_time(cluster.seconds)} each, "
        f"{width} at a time: at most {hours}"
    )


def _each(cluster: SlurmRequest) -> str:
    gpus = f"{cluster.gpus_per_node} {cluster.gpu_type or ''} GPUs".replace("  ", " ")
    return f"{gpus} and {cluster.processes_per_node * cluster.runs_side_by_side} processes per node"


def _memory(todo: Sequence[ArrayRequest]) -> list[str]:
    """What a GPU holds, for each distinct estimate, and what would fit where it is too much."""
    lines = []
    for array in todo:
        if gpus := array.cluster.gpus():
            trained = (job.config for task in array.tasks for job in task if "model" in job.config)
            lines += [memory.memory_line(config, gpus, array.cluster.gpu_memory_gb) for config in trained]
    return list(dict.fromkeys(lines))


def _disk(place: Path, jobs: Sequence[Job]) -> str:
    """Checkpoints that are kept, and the model, of all jobs, against what is free."""
    there = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(there).free
    needed = 0.0
    for job in (job for job in jobs if "model" in job.config):
        shape = memory.trained_shape(job.config)
        if shape is not None:
            trained, kept = memory.trained_parameters(shape, job.config), job.config.checkpoint.keep_last
            needed += 12 * trained * (kept + 1) + 2 * shape.parameters  # one more while it is written
    said = f"checkpoints and models of {len(jobs)} runs: about {readable_size(needed)}; " if needed else ""
    return f"{said}free in {there}: {readable_size(free)}" + (": NOT ENOUGH" if needed > free else "")
