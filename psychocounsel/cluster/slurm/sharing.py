"""`shards=N`: division of a command that works in steps. An array queries models; a last job makes tables and figures."""

import contextlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

from psychocounsel.annotation.annotation_steps import due_steps
from psychocounsel.annotation.checking import refuse_unfinished_removal
from psychocounsel.cluster.job import Job, Submission, is_done, write_run_directory
from psychocounsel.cluster.slurm import dry_run, queue, submitting
from psychocounsel.cluster.slurm.array_request import home
from psychocounsel.errors import DONE
from psychocounsel.rundir import submissions
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.rundir.sweep_table import add_to_table
from psychocounsel.settings.targets import build

_SHARED = ("replies", "scores")  # steps of `annotate` that the array runs


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
        if job.makes_tables:
            refuse_unfinished_removal(AnnotationDir(job.run_dir))
        cleaning, speeches, shards, _ = stages(job)
        if parts := [*cleaning, *speeches, *shards]:
            _list_parts(job, parts)
            job.after = [str(each.run_dir) for each in shards or speeches or cleaning]
        cleaned, first, shared = [*cleaned, *cleaning], [*first, *speeches], [*shared, *shards]
    return [group for group in (cleaned, first, shared, [*jobs]) if group]


def stages(job: Job) -> list[list[Job]]:
    """Return the unfinished jobs: an array cleans speeches, a job compares them, an array queries models, then `job` itself."""
    files = AnnotationDir(job.run_dir)
    if job.makes_tables:
        steps, asked = due_steps(job.config), [step for step in job.config.steps if step in _SHARED]
    else:
        evaluation = build(job.config, "evaluation")
        steps, asked = evaluation.planned(job.config), evaluation.shared_steps(job.config)
    due = {each.step for each in steps if each.due}
    makes_speeches = job.makes_tables and "speeches" in due
    cleaning = _cleaning(job, files) if makes_speeches and _is_large(job) else []
    first = [_part(job, job.config.shards, "speeches", ["speeches"])] if makes_speeches and asked else []
    shards = []
    if due & {*asked}:
        shards = [_part(job, index, files.shard(index).path.name, asked, index) for index in range(job.config.shards)]
        shards = [each for each in shards if first or not is_done(each)]
    before = list(job.after)
    for group in (cleaning, first, shards):
        for each in group:
            each.after = list(before)
        before = [str(each.run_dir) for each in group] or before
    job.after = [str(files.shards)] if cleaning or first or shards else job.after
    return [cleaning, first, shards, [job]]


def _is_large(job: Job) -> bool:
    """Return True if the local sources of speeches are large enough for an array to clean them."""
    files = build(job.config, "speeches").files()
    return sum(file.stat().st_size for file in files if file.exists()) > 1e6 * job.config.clean_in_shards_above_mb


def _cleaning(job: Job, files: AnnotationDir) -> list[Job]:
    """Return the jobs whose shares of the speeches are not cleaned yet; their numbers follow those of the other jobs."""
    count = job.config.shards
    parts = [
        _part(job, count + 1 + index, files.cleaning(index).path.name, ["speeches"], index) for index in range(count)
    ]
    return [each for each in parts if not is_done(each)]


def _part(job: Job, index: int, name: str, steps: list[str], share: int | None = None) -> Job:
    """Return a part of the work as a separate job in `OUT/shards/<name>`."""
    config = deepcopy(job.config)
    folder = AnnotationDir(job.run_dir).shards
    config.steps, config.share = steps, share
    config.run_dir, config.sweep_dir = str(folder / name), str(folder)
    return Job(job.module, config, folder / name, index, job.overrides)


def submit(job: Job) -> Submission:
    """Submit all parts of the work and return.

    Raises:
        UserError: with SLURM's message if it refuses; then nothing is queued. Also if a removal is unfinished.
    """
    files = AnnotationDir(job.run_dir)
    if job.makes_tables:
        refuse_unfinished_removal(files)
    *before, last = stages(job)
    parts = [each for group in before for each in group]
    _list_parts(job, parts)
    _leave_out_live(parts)
    with _all_or_nothing([files.shards, files.path]):
        for jobs in (*before, last):
            if new := [each for each in jobs if not each.skip]:
                for each in new:
                    write_run_directory(each)
                submitting.submit_jobs(home(new), new)
    print(f"status: python -m psychocounsel.jobs status {files.shards if parts else files.path}", flush=True)
    return Submission(DONE, [None])


def _list_parts(job: Job, parts: Sequence[Job]) -> None:
    """Write a sweep's table that lists the parts."""
    shards = AnnotationDir(job.run_dir).shards
    shards.mkdir(parents=True, exist_ok=True)
    add_to_table(shards, [(each.run_dir, each.overrides) for each in parts])


def describe(job: Job) -> str:
    """Return the output of `dry_run=true` for each part.

    Raises:
        UserError: if submitting would fail.
    """
    said = []
    answers, results = ("ratings", "pairs and card") if job.makes_tables else ("verdicts", "figures")
    shared = f"in {job.config.shards} shards"
    names = (f"cleaning of speeches, {shared}", "speeches", f"replies and {answers}, {shared}", f"tables, {results}")
    for name, jobs in zip(names, stages(job), strict=True):
        for each in jobs:
            each.after = []  # a dry run submits none of the jobs to wait for
        said += [f"-- {name}", dry_run.describe(jobs)] if jobs else []
    return "\n".join(said)


def _leave_out_live(parts: Sequence[Job]) -> None:
    """Set `skip` of queued parts; unfinished parts are submitted again."""
    if parts:
        submitting.select(parts)
    for each in parts:
        each.skip = each.skip if each.skip.startswith("submitted before") else ""


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
