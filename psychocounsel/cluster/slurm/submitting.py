"""Submitting to SLURM: one array for each distinct request, of what is not finished and not submitted already."""

import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.slurm import scheduler, snapshot
from psychocounsel.cluster.slurm.dependency import dependency
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.script import render
from psychocounsel.cluster.slurm.standings import QueuedRun, queued_runs
from psychocounsel.errors import CONTINUE_LATER, DONE, UserError
from psychocounsel.remote import hub
from psychocounsel.rundir import submissions
from psychocounsel.rundir.owner import refuse_if_owned
from psychocounsel.rundir.paths import AnnotationDir, SubmissionDir
from psychocounsel.rundir.summary import is_finished
from psychocounsel.settings import config as configs
from psychocounsel.settings.keys import refuse_control_characters
from psychocounsel.settings.schema import flat_keys
from psychocounsel.storage.files import readable_time, write_atomically

_POLL_SECONDS = 10.0


@dataclass
class ArrayRequest:
    """What one sbatch call asks for: `tasks` are the runs of each array index; one task is a job without an array."""

    cluster: SlurmRequest
    tasks: list[list[Job]]
    files: SubmissionDir | None = None
    dependency: str = ""


def home(jobs: Sequence[Job]) -> Path:
    """Where submissions are kept: the sweep's folder, or that of the one run (or of the sweep that it is of)."""
    sweep = jobs[0].config.sweep_dir
    return Path(sweep) if sweep else submissions.home_of(jobs[0].run_dir)


def select(jobs: Sequence[Job]) -> None:
    """Say of every job why it is not to be submitted: it is finished, or in the queue, or ended before.

    Raises:
        UserError: if SLURM cannot be asked, a process outside of it works there, or speeches are to be removed from a data set
            whose jobs are in the queue.
    """
    queued = queued_runs(home(jobs))
    for job in jobs:
        here = queued.get(job.run_dir)
        if job.config.get("remove"):
            _refuse_removal_beside(job, here)
        if job.finished:
            job.skip = "finished"
        elif here and here.is_live:
            assert here.task is not None
            job.skip = f"submitted before as {here.task.name} ({here.task.state.lower()})"
        elif here and job.config.sweep_dir:
            job.skip = "ended unfinished"
        else:
            refuse_if_owned(job.run_dir)


def _refuse_removal_beside(job: Job, here: QueuedRun | None) -> None:
    """Refuse to remove speeches of a data set on which jobs wait or run, those of its shards included.

    Raises:
        UserError: with the commands that cancel them.
    """
    shards = AnnotationDir(job.run_dir).shards
    at_work = [job.run_dir] if here and here.is_live else []
    at_work += [shards] if any(each.is_live for each in queued_runs(shards).values()) else []
    if at_work:
        commands = " and ".join(f"`python -m psychocounsel.jobs cancel {path}`" for path in at_work)
        raise UserError(
            f"remove={job.config.remove}: jobs on {job.run_dir} wait or run: wait for them, or give {commands} first, "
            "then this again"
        )


def arrays(jobs: Sequence[Job], largest_array: int) -> list[ArrayRequest]:
    """Group jobs by what they ask for, and cut at the site's largest array."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        asked = OmegaConf.to_container(job.config.cluster), list(job.after)
        groups.setdefault(repr(asked), []).append(job)
    result = []
    for members in groups.values():
        cluster = cluster_of(members[0])
        tasks = [members[start : start + cluster.group] for start in range(0, len(members), cluster.group)]
        result += [
            ArrayRequest(cluster, tasks[start : start + largest_array]) for start in range(0, len(tasks), largest_array)
        ]
    return result


def cluster_of(job: Job) -> SlurmRequest:
    cluster: SlurmRequest = configs.build(job.config, "cluster")
    return cluster


def submit(cluster: SlurmRequest, jobs: list[Job]) -> Submission:
    """Submit what is new and leave; with `cluster.wait` until all have ended.

    Raises:
        UserError: with SLURM's own words where it refuses; then nothing is left behind.
    """
    place = home(jobs)
    new = [job for job in jobs if not job.skip]
    if new:
        submit_jobs(place, new)
    _report_skipped(jobs, place)
    if cluster.wait:
        return _wait(jobs, place)
    if new:
        print(f"how it stands: python -m psychocounsel.jobs status {place}", file=sys.stderr)
    return Submission(DONE, [job.objective if job.finished else None for job in jobs])


def plan(jobs: Sequence[Job]) -> list[ArrayRequest]:
    """The arrays of `jobs` with their dependencies, checked against the site's limits; nothing is written.

    Raises:
        UserError: if SLURM is not here, or a partition's time limit is exceeded.
    """
    for job in jobs:
        if missing := next((source for source, folder in hub.folders(job.config) if folder is None), None):
            given = " ".join(text for text in sys.argv[1:] if not text.startswith("dry_run="))
            command = configs.command_of(job.config)
            given = given if command == "train" else f"--config-name {command} {given}"
            raise UserError(
                f"{missing.key}={missing.id} is not in {job.config.paths.cache}, and jobs have no network: first run "
                f"`python -m psychocounsel.prepare {given}`"
            )
    many = len(jobs) > cluster_of(jobs[0]).group
    result = arrays(jobs, scheduler.max_array_size() if many else 1)
    for partition, members in itertools.groupby(result, lambda array: array.cluster.partition):
        limit = scheduler.time_limit(partition)
        for array in members:
            if limit and array.cluster.seconds > limit[1]:
                raise UserError(
                    f"cluster.time={array.cluster.time} is more than partition {limit[0]} allows "
                    f"({readable_time(limit[1])}): give less, and cluster.requeue or cluster.segments go on after it"
                )
            array.dependency = dependency(array.tasks[0][0].after, len(array.tasks))
    return result


def submit_jobs(place: Path, jobs: Sequence[Job], code: Sequence[Path] | None = None) -> None:
    """Submit jobs whose run directories are written, with a copy of today's code or with `code`.

    Raises:
        UserError: with SLURM's own words where it refuses; then nothing is left behind.
    """
    submitted: list[str] = []
    refuse_control_characters([str(job.run_dir) for job in jobs], "run_dir")  # lines of tasks.txt
    todo = plan(jobs)
    with _undone(todo, submitted):
        if code is None:
            code = snapshot.take(place, jobs[0].config.code_path, _targets(jobs), todo[0].cluster.snapshot_limit_mb)
        for array in todo:
            array.files = submissions.new_submission(place)
            runs = [[job.run_dir for job in task] for task in array.tasks]
            write_atomically(array.files.tasks, "".join("\t".join(map(str, task)) + "\n" for task in runs))
            write_atomically(array.files.script, script_of(array, place, code))
            ids = _segments(array, array.files.script, submitted)
            submissions.write(array.files, place, ids, runs, code)
            _announce(array, ids)


def script_of(array: ArrayRequest, place: Path, code: Sequence[Path]) -> str:
    paths = array.tasks[0][0].config.paths
    binds = [str(place), str(paths.output), str(paths.cache)]
    assert array.files is not None
    return render(array.cluster, job_name(place), array.files.path, len(array.tasks), code, binds, array.dependency)


def job_name(place: Path) -> str:
    return place.name


def _segments(array: ArrayRequest, script: Path, submitted: list[str]) -> list[str]:
    """Submit a chain of the same script: each link begins when the one before has ended, however it did."""
    ids: list[str] = []
    for _ in range(array.cluster.segments):
        link = [f"--dependency=afterany:{ids[-1]}", "--kill-on-invalid-dep=yes"] if ids else []
        ids.append(scheduler.submit(script, *link))
        submitted.append(ids[-1])
    return ids


def _targets(jobs: Sequence[Job]) -> set[str]:
    """Every dotted name that a configuration asks to be imported."""
    return {
        str(OmegaConf.select(job.config, key))
        for job in jobs
        for key in flat_keys(job.config)
        if key.endswith("._target_")
    }


@contextmanager
def _undone(todo: Sequence[ArrayRequest], submitted: list[str]) -> Iterator[None]:
    """Cancel what was submitted and remove its folders if the block fails: all is submitted, or nothing."""
    try:
        yield
    except BaseException:
        scheduler.cancel(submitted)
        for array in todo:
            if array.files is not None:
                shutil.rmtree(array.files.path, ignore_errors=True)
        raise


def _announce(array: ArrayRequest, ids: Sequence[str]) -> None:
    runs = sum(map(len, array.tasks))
    throttle = f", {array.cluster.max_parallel} at a time" if array.cluster.max_parallel else ""
    what = f"array of {len(array.tasks)}{throttle}" if len(array.tasks) > 1 else "job"
    counted = f"{runs} runs" if runs > 1 else str(array.tasks[0][0].run_dir)
    print(f"submitted {what} {' '.join(ids)}: {counted}", flush=True)


def _report_skipped(jobs: Sequence[Job], place: Path) -> None:
    skipped = [job for job in jobs if job.skip]
    if len(jobs) == 1 and skipped:
        print(f"{skipped[0].run_dir}: {skipped[0].skip}", flush=True)
        return
    for reason, count in _counted(job.skip.partition(" as ")[0] for job in skipped).items():
        advice = f" (`python -m psychocounsel.jobs resubmit {place}`)" if reason == "ended unfinished" else ""
        print(f"not submitted: {count} {reason}{advice}", flush=True)


def _counted(words: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return counts


def _wait(jobs: Sequence[Job], place: Path) -> Submission:
    """Until no job is in the queue any more; Ctrl-C leaves the jobs where they are."""
    print(
        "waiting for all jobs; Ctrl-C leaves them running, and the same command waits again",
        file=sys.stderr,
        flush=True,
    )
    mine = {job.run_dir for job in jobs}
    try:
        while any(here.is_live for run, here in queued_runs(place).items() if run in mine):
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        return Submission(CONTINUE_LATER, [None] * len(jobs))
    values = [job.objective for job in jobs]
    return Submission(DONE if all(is_finished(job.run_dir) for job in jobs) else 1, values)
