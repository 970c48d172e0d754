"""`annotate` with `shards=N`: a job that reads speeches, an array that asks, and a job that makes the data set.

All share the directory's journal of answers. The last job makes the tables of replies and votes as one process would, of answers
that are all in the journal, so the data set is that of a run without shards.
"""

import contextlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

from psychocounsel.annotation.annotation_steps import due_steps
from psychocounsel.annotation.checking import nothing_due, refuse_unfinished_removal
from psychocounsel.cluster.job import Job, Submission, write_run_directory
from psychocounsel.cluster.slurm import dry_run, scheduler, submitting
from psychocounsel.errors import DONE
from psychocounsel.rundir import submissions
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.rundir.summary import is_finished
from psychocounsel.rundir.sweep_table import add_to_table

_SHARED = ("replies", "scores")  # the steps that the array does


def stages(job: Job) -> list[list[Job]]:
    """The jobs of an annotation that are yet to be done: before the array, the array's, and itself."""
    files = AnnotationDir(job.run_dir)
    due = {each.step for each in due_steps(job.config) if each.due}
    asked = [step for step in job.config.steps if step in _SHARED]
    first = [_part(job, job.config.shards, "speeches", ["speeches"])] if "speeches" in due else []
    shards = []
    if due & {*_SHARED}:
        shards = [_part(job, index, files.shard(index).path.name, asked, index) for index in range(job.config.shards)]
        shards = [each for each in shards if first or not (is_finished(each.run_dir) and nothing_due(each.config))]
    for each in first:
        each.after = list(job.after)
    for each in shards:
        each.after = [str(first[0].run_dir)] if first else list(job.after)
    job.after = [str(files.shards)] if first or shards else job.after
    return [first, shards, [job]]


def _part(job: Job, index: int, name: str, steps: list[str], share: int | None = None) -> Job:
    """A part of an annotation as a job of its own, in `OUT/shards/<name>`."""
    config = deepcopy(job.config)
    folder = AnnotationDir(job.run_dir).shards
    config.steps, config.share = steps, share
    config.run_dir, config.sweep_dir = str(folder / name), str(folder)
    return Job(job.module, config, folder / name, index, job.overrides)


def submit(job: Job) -> Submission:
    """Submit all parts of an annotation and leave.

    Raises:
        UserError: with SLURM's own words where it refuses; then nothing is left in the queue. If a removal is unfinished.
    """
    files = AnnotationDir(job.run_dir)
    refuse_unfinished_removal(files)
    first, shards, last = stages(job)
    parts = [*first, *shards]
    files.shards.mkdir(exist_ok=True)
    add_to_table(files.shards, [(each.run_dir, each.overrides) for each in parts])
    _leave_out_live(parts)
    with _all_or_nothing([files.shards, files.path]):
        for jobs in (first, shards, last):
            if new := [each for each in jobs if not each.skip]:
                for each in new:
                    write_run_directory(each)
                submitting.submit_jobs(submitting.home(new), new)
    print(f"how it stands: python -m psychocounsel.jobs status {files.shards if parts else files.path}", flush=True)
    return Submission(DONE, [None])


def describe(job: Job) -> str:
    """What `dry_run=true` prints of each part.

    Raises:
        UserError: where submitting would fail.
    """
    said = []
    names = ("speeches", f"replies and ratings, in {job.config.shards} shards", "tables, pairs and card")
    for name, jobs in zip(names, stages(job), strict=True):
        for each in jobs:
            each.after = []  # they are not submitted
        said += [f"-- {name}", dry_run.describe(jobs)] if jobs else []
    return "\n".join(said)


def _leave_out_live(parts: Sequence[Job]) -> None:
    """Set `skip` of what is in the queue; what ended unfinished goes on."""
    if parts:
        submitting.select(parts)
    for each in parts:
        each.skip = each.skip if each.skip.startswith("submitted before") else ""


@contextlib.contextmanager
def _all_or_nothing(places: Sequence[Path]) -> Iterator[None]:
    """Cancel what the block has submitted if it fails."""

    def jobs() -> set[str]:
        return {job for place in places for record in submissions.read(place) for job in record.jobs}

    before = jobs()
    try:
        yield
    except BaseException:
        scheduler.cancel(sorted(jobs() - before))
        raise
