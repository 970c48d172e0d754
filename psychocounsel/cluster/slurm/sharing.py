"""`shards=N`: division of a command that works in steps. An array queries models; a last job makes tables and figures."""

import contextlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from shlex import quote

from psychocounsel.cluster.job import Job, Submission, is_done, write_run_directory
from psychocounsel.cluster.slurm import dry_run, queue, submitting
from psychocounsel.cluster.slurm.array_request import home
from psychocounsel.cluster.slurm.queue import queued_runs
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.rundir.results import is_finished
from psychocounsel.rundir.sweep import add_to_table, remove_from_table


def is_shared(job: Job) -> bool:
    """Return True if the job is divided into several."""
    return job.works_in_steps and job.config.shards > 1 and not job.config.get("remove")


def in_parts(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs of a study's stage, preceded by the jobs that share their work; `after` names each job's dependencies.

    Raises:
        UserError: if a removal from a dataset is unfinished.
    """
    cleaned, first, shared = list[Job](), list[Job](), list[Job]()
    for job in jobs:
        if job.finished or not is_shared(job):
            continue
        cleaning, speeches, shards, _ = stages(job)
        if parts := [*cleaning, *speeches, *shards]:
            _list_parts(job, parts)
        cleaned, first, shared = [*cleaned, *cleaning], [*first, *speeches], [*shared, *shards]
    return [group for group in (cleaned, first, shared, [*jobs]) if group]


def stages(job: Job) -> list[list[Job]]:
    """Return the unfinished jobs: an array cleans speeches, a job compares them, an array queries models, then `job` itself."""
    files, shared = AnnotationDir(job.run_dir), job.command.shared_steps(job.config)
    cleaning = _cleaning(job, files, shared.first) if shared.first and shared.first_in_shards else []
    first = (
        [_part(job, job.config.shards, "-".join(shared.first), shared.first)]
        if shared.first and shared.query_steps
        else []
    )
    due, query_steps = shared.due, shared.query_steps
    shards = []
    if due & {*query_steps}:
        shards = [
            _part(job, index, files.shard(index).path.name, query_steps, index) for index in range(job.config.shards)
        ]
        shards = [shard for shard in shards if first or not is_done(shard)]
    before = list(job.after)
    for group in (cleaning, first, shards):
        for part in group:
            part.after = list(before)
        before = [str(part.run_dir) for part in group] or before
    job.after = before
    return [cleaning, first, shards, [job]]


def _cleaning(job: Job, files: AnnotationDir, steps: list[str]) -> list[Job]:
    """Return the unfinished jobs that prepare a share of the first steps; their numbers follow those of the other jobs."""
    count = job.config.shards
    parts = [_part(job, count + 1 + index, files.cleaning(index).path.name, steps, index) for index in range(count)]
    return [part for part in parts if not is_done(part)]


def _part(job: Job, index: int, name: str, steps: list[str], share: int | None = None) -> Job:
    """Return a part of the work as a separate job in `OUT/shards/<name>`."""
    config = deepcopy(job.config)
    folder = AnnotationDir(job.run_dir).shards
    config.steps, config.share = steps, share
    config.run_dir, config.sweep_dir = str(folder / name), str(folder)
    return Job(job.command, config, folder / name, index, job.overrides)


def submit(cluster: SlurmRequest, jobs: Sequence[Job]) -> Submission:
    """Submit all parts of the work of `jobs` and return; with `cluster.wait`, after all have ended.

    Raises:
        UserError: with SLURM's message if it refuses; then nothing is queued. Also if a removal is unfinished.
    """
    groups = in_parts([job for job in jobs if not job.skip])
    parts = [part for group in groups[:-1] for part in group]
    homes = list(dict.fromkeys(home(job) for job in [*parts, *jobs]))
    _leave_out_live(parts, homes)
    with _all_or_nothing(homes):
        for group in groups:
            new = [job for job in group if not job.skip]
            for job in new:
                write_run_directory(job)
            for place in homes:
                if members := [job for job in new if home(job) == place]:
                    submitting.submit_jobs(place, members)
    return submitting.submitted(cluster, jobs, parts)


def _list_parts(job: Job, parts: Sequence[Job]) -> None:
    """Write a sweep's table that lists the parts, and unlist unfinished ones of another number of shards.

    Raises:
        UserError: if one of these waits or runs, because it would buy the same answers.
    """
    shards, known = AnnotationDir(job.run_dir).shards, {part.run_dir for part in parts}
    stale = {run: queued for run, queued in queued_runs(shards).items() if run not in known and not is_finished(run)}
    if live := [run for run, queued in stale.items() if queued.is_live]:
        raise UserError(
            f"shards={job.config.shards}: {live[0].name} of another number of shards waits or runs: "
            f"`psychocounsel jobs cancel {quote(str(shards))}` first"
        )
    shards.mkdir(parents=True, exist_ok=True)
    remove_from_table(shards, stale)
    add_to_table(shards, [(part.run_dir, part.overrides) for part in parts])


def describe(job: Job) -> str:
    """Return the output of `dry_run=true` for each part.

    Raises:
        UserError: if submitting would fail.
    """
    lines, given = [], list(job.after)
    shared, shards = job.command.shared_steps(job.config), f"in {job.config.shards} shards"
    first = " and ".join(shared.first)
    names = (f"cleaning of {first}, {shards}", first, f"{shared.answers}, {shards}", f"tables, {shared.results}")
    for name, jobs in zip(names, stages(job), strict=True):
        for member in jobs:
            # A dry run submits none of the parts that others wait for.
            member.after = [parent for parent in member.after if parent in given]
        mark = "#" if job.config.dry_run == "script" else "--"
        lines += [f"{mark} {name}", dry_run.describe(jobs)] if jobs else []
    return "\n".join(lines)


def _leave_out_live(parts: Sequence[Job], homes: Sequence[Path]) -> None:
    """Set `skip` of queued parts; unfinished parts are submitted again."""
    for place in homes:
        if members := [part for part in parts if home(part) == place]:
            submitting.select(members)
    for part in parts:
        part.skip = part.skip if part.skip.startswith("submitted before") else ""


@contextlib.contextmanager
def _all_or_nothing(places: Sequence[Path]) -> Iterator[None]:
    """Cancel the block's submissions if it fails."""

    def jobs() -> set[str]:
        return {job for place in places for record in submissions.read(place) for job in record.jobs}

    before = jobs()
    try:
        yield
    except BaseException:
        queue.cancel(sorted(jobs() - before))
        raise
