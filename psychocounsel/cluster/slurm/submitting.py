"""Submission to SLURM: one array for each distinct request, without finished and already submitted runs."""

import itertools
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from psychocounsel.cluster.base import NoAnswer
from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.row_process import unfetched
from psychocounsel.cluster.slurm import queue
from psychocounsel.cluster.slurm.array_request import (
    ArrayRequest,
    announce,
    arrays,
    cluster_of,
    code_home,
    copied,
    home,
    send,
    undone,
)
from psychocounsel.cluster.slurm.queue import QueuedRun, queued_runs
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.shortages import disk_warning, warnings_of
from psychocounsel.cluster.slurm.site_limits import mixture_warning, refuse_not_allowed, refuse_too_much
from psychocounsel.cluster.states import row_of
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, GATE_UNDECIDED, UserError, worst
from psychocounsel.rundir import submissions
from psychocounsel.rundir.identity import deciding
from psychocounsel.rundir.owner import refuse_if_owned
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.rundir.results import is_finished
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.submissions import Record, home_of
from psychocounsel.rundir.sweep import ListedRun, is_sweep, runs_of
from psychocounsel.settings.keys import refuse_control_characters
from psychocounsel.storage.files import readable_time

# `after=[RUN_OR_SWEEP,...]`: runs that start after others have finished.


def dependency(parents: Sequence[str], tasks: Sequence[Sequence[int]], crosses: bool = False) -> str:
    """Return sbatch's --dependency for a job or an array; "" without a dependency. `tasks`: indices of the runs of each task.

    An array after an array of the same indices waits index by index (aftercorr), otherwise, or if a run `crosses` indices
    (`reads_other_runs`), for all tasks (afterok).

    Raises:
        UserError: if a parent is not a run or sweep, was never submitted, or has ended unfinished.
    """
    refuse_missing(parents)
    sweeps, alone = list[str](), dict[Path, dict[Path, int | None]]()
    for parent in map(Path, parents):
        if is_sweep(parent):
            indices = {run.run_dir: run.index for run in runs_of(parent)}
            sweeps.append(_after(parent, indices, [] if crosses else tasks))
        else:
            alone.setdefault(home_of(parent), {})[parent] = None
    return ",".join(filter(None, [*sweeps, *(_after(place, runs, []) for place, runs in alone.items())]))


def refuse_missing(parents: Sequence[str]) -> None:
    """Refuse a folder in `after` that is neither a run nor a sweep; SLURM is not asked."""
    for parent in map(Path, parents):
        if not (is_sweep(parent) or is_run(parent)):
            raise UserError(f"after={parent}: is neither a run nor a sweep (submit it first)")


def _after(place: Path, awaited: Mapping[Path, int | None], tasks: Sequence[Sequence[int]]) -> str:
    """Return the dependency on runs submitted from `place`, given with their indices; "" if all have finished."""
    queued = {run: queued_run for run, queued_run in queued_runs(place).items() if run in awaited}
    waiting = {run: queued[run] for run in awaited if run in queued and not is_finished(run)}
    for run in awaited:
        if run not in queued and not is_finished(run):
            raise UserError(f"after={run}: was not submitted to SLURM and is not finished")
        if run in waiting and not waiting[run].is_live:
            again = f"`psychocounsel jobs resubmit {quote(str(place))}` first"
            if (
                code_home(place) != place
            ):  # `resubmit` leaves out the study's own jobs, such as the choice of a best run
                again = "repeat the study's command"
            raise UserError(f"after={run}: has ended unfinished; {again}")
    records = {id(queued_run.record): queued_run.record for queued_run in waiting.values()}
    wholes = {number for number, record in records.items() if _is_whole(record, waiting, queued)}
    if len(records) == len(wholes) == 1:
        (record,) = records.values()
        if record.is_array and [[awaited[run] for run in task] for task in record.tasks] == [*map(list, tasks)]:
            return f"aftercorr:{record.jobs[-1]}"
    # An array is named as one job if all its runs are awaited and can still end well in it.
    names = dict.fromkeys(
        queued_run.record.jobs[-1] if id(queued_run.record) in wholes else queued_run.record.task_name(queued_run.index)
        for queued_run in waiting.values()
    )
    return f"afterok:{':'.join(names)}" if names else ""


def _is_whole(record: Record, waiting: Mapping[Path, QueuedRun], awaited: Mapping[Path, QueuedRun]) -> bool:
    """Return False if a run of the array is not awaited, or finished elsewhere after its own task may have failed."""

    def ends_well(run: Path) -> bool:
        queued_run = awaited.get(run)
        if queued_run is None or queued_run.record is not record:
            return False
        return run in waiting or queued_run.task is None or queued_run.task.state == "COMPLETED"

    return all(ends_well(run) for task in record.tasks for run in task)


# Submission.

_POLL_SECONDS = 10.0


def select(jobs: Sequence[Job]) -> None:
    """Set `skip` of every job that must not be submitted: finished, queued, or, in a sweep, ended unfinished.

    Raises:
        UserError: if SLURM does not answer, a process outside of it works in a run directory, or speeches are to be removed from
            a dataset whose jobs are queued.
    """
    queued = queued_runs(home(jobs[0]))
    for job in jobs:
        queued_run = queued.get(job.run_dir)
        if job.config.get("remove"):
            _refuse_removal_beside(job, queued_run)
        note_live(job, queued_run)
        if job.finished:
            job.skip = "finished"
        elif not job.skip and queued_run and job.config.sweep_dir and is_run(job.run_dir):  # not forgotten since
            job.skip = "ended unfinished"
        elif not job.skip:
            refuse_if_owned(job.run_dir)


def _refuse_removal_beside(job: Job, queued_run: QueuedRun | None) -> None:
    """Refuse to remove speeches of a dataset with waiting or running jobs, including those of its shards.

    Raises:
        UserError: with the command that cancels them.
    """
    shards = queued_runs(AnnotationDir(job.run_dir).shards).values()
    if any(at_work is not None and at_work.is_live for at_work in (queued_run, *shards)):
        raise UserError(
            f"remove={job.config.remove}: jobs on {job.run_dir} wait or run: wait for them, or give "
            f"`psychocounsel jobs cancel {quote(str(job.run_dir))}` first, then repeat this command"
        )


def submit(cluster: SlurmRequest, jobs: list[Job]) -> Submission:
    """Submit new jobs and return; with `cluster.wait`, after all have ended.

    Raises:
        UserError: with SLURM's message if it refuses; then nothing is left behind.
    """
    if new := [job for job in jobs if not job.skip]:
        submit_jobs(home(jobs[0]), new)
    return submitted(cluster, jobs)


def submitted(cluster: SlurmRequest, jobs: Sequence[Job], parts: Sequence[Job] = ()) -> Submission:
    """Print what was not submitted. Wait for the `jobs`, and the `parts` of their work, if `cluster.wait` is set."""
    place = home(jobs[0])
    report_skipped(jobs, place)
    if cluster.wait:
        ended = wait([*parts, *jobs], *dict.fromkeys(home(job) for job in [*parts, *jobs]))
        return Submission(ended.exit_code, ended.objectives[len(parts) :])
    if not all(job.skip for job in jobs):
        print(f"status: psychocounsel jobs status {quote(str(place))}", file=sys.stderr)
    return Submission(DONE, [job.objective if job.finished else None for job in jobs])


def plan(jobs: Sequence[Job]) -> list[ArrayRequest]:
    """Return the arrays of `jobs` with their dependencies, checked against the site's limits; nothing is written.

    Raises:
        UserError: if SLURM is not available, a partition has too little time, nodes, GPUs or CPUs, or a run in `after` was
            never submitted or has ended unfinished.
    """
    many = len(jobs) > cluster_of(jobs[0]).group
    result = arrays(jobs, queue.max_array_size() if many else 1)
    refuse_beyond_limits(result)
    for array in result:
        indices = [[job.index for job in task] for task in array.tasks]
        array.dependency = dependency(array.tasks[0][0].after, indices, reads_other_runs(array.tasks))
    return result


def reads_other_runs(tasks: Sequence[Sequence[Job]]) -> bool:
    """Return True if a run's settings name a path in a sweep of `after` that is not in a run with an index of its own task."""
    for sweep in filter(is_sweep, map(Path, tasks[0][0].after)):
        runs = {run.index: run.run_dir for run in runs_of(sweep)}
        for task in tasks:
            own = [runs[job.index] for job in task if job.index in runs]
            values = [value for job in task for value in deciding(job.config).values()]
            texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
            named = [Path(text) for text in texts if isinstance(text, str) and text.startswith(f"{sweep}/")]
            if any(not any(map(path.is_relative_to, own)) for path in named):
                return True
    return False


def refuse_unfetched(jobs: Sequence[Job]) -> None:
    """Refuse jobs whose models or data are not in the cache, because jobs have no network.

    Raises:
        UserError: with the command that fetches them.
    """
    if missing := unfetched(jobs, ", and jobs have no network", asked=True):
        raise UserError(missing)


def refuse_beyond_limits(todo: Sequence[ArrayRequest]) -> None:
    """Refuse arrays that the site does not allow: unknown partitions, accounts or QOS, too much time, too many nodes or jobs.

    Raises:
        UserError: naming the key and the limit; or if SLURM is not available.
    """
    _refuse_too_long(todo)
    jobs = sum(len(array.tasks) * array.cluster.segments for array in todo)
    sizes = [(sum(map(len, array.tasks)), array.cluster.segments) for array in todo]
    for cluster in {repr(array.cluster): array.cluster for array in todo}.values():
        refuse_too_much(cluster)
        refuse_not_allowed(cluster, jobs, sizes)


def mixture_warnings(todo: Sequence[ArrayRequest]) -> list[str]:
    """Return the distinct warnings of runs that may get GPUs of several types."""
    return list(dict.fromkeys(line for array in todo for line in mixture_warning(array.cluster)))


def _refuse_too_long(todo: Sequence[ArrayRequest]) -> None:
    """Refuse a time limit that a partition does not allow.

    Raises:
        UserError: naming the partition's limit; or if SLURM is not available.
    """
    for partition, members in itertools.groupby(todo, lambda array: array.cluster.partition):
        limit = queue.time_limit(partition)
        for array in members:
            if limit and array.cluster.seconds > limit[1]:
                raise UserError(
                    f"cluster.time={array.cluster.time} is more than partition {limit[0]} allows "
                    f"({readable_time(limit[1])}): give less; with cluster.requeue or cluster.segments the run resumes afterwards"
                )


def submit_jobs(place: Path, jobs: Sequence[Job], code: Sequence[Path] | None = None) -> None:
    """Submit jobs whose run directories are written, with a copy of the current code or with `code`.

    `skip` is set for jobs that another command has submitted in the meantime.

    Raises:
        UserError: with SLURM's message if it refuses; then nothing is left behind.
    """
    refuse_control_characters([str(job.run_dir) for job in jobs], "run_dir")  # lines of tasks.txt
    with submissions.submitting(place):
        if not (new := _still_new(place, jobs)):
            return
        refuse_unfetched(new)
        todo = plan(new)
        for line in (*mixture_warnings(todo), *warnings_of(new), *disk_warning(place, new)):
            print(line, file=sys.stderr)
        with undone(todo, place):
            if code is None:
                code = copied(new, place)
            for array in todo:
                send(array, place, code)
                announce(array)


def _still_new(place: Path, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that no other command has submitted since `select`."""
    queued = queued_runs(place)
    for job in jobs:
        note_live(job, queued.get(job.run_dir))
    return [job for job in jobs if not job.skip]


def note_live(job: Job, queued_run: QueuedRun | None) -> None:
    """Set `skip` of a queued job."""
    if queued_run and queued_run.is_live:
        assert queued_run.task is not None
        job.skip = f"submitted before as {queued_run.task.name} ({queued_run.task.state.lower()})"


def report_skipped(jobs: Sequence[Job], place: Path) -> None:
    skipped = [job for job in jobs if job.skip]
    advice = {"ended unfinished": f" (`psychocounsel jobs resubmit {quote(str(place))}`)"}
    if len(jobs) == 1 and skipped:
        print(f"{skipped[0].run_dir}: {skipped[0].skip}{advice.get(skipped[0].skip, '')}", flush=True)
        return
    for reason, count in Counter(job.skip.partition(" as ")[0] for job in skipped).items():
        print(f"not submitted: {count} {reason}{advice.get(reason, '')}", flush=True)


def wait(jobs: Sequence[Job], *places: Path) -> Submission:
    """Wait until no job is queued; Ctrl-C leaves the jobs running.

    SLURM may not answer for a while, for instance during a restart of its controller, which the jobs survive.
    """
    print(
        "waiting for all jobs; Ctrl-C leaves them running; the same command waits again",
        file=sys.stderr,
        flush=True,
    )
    mine = {job.run_dir for job in jobs}
    told = ""
    try:
        while True:
            try:
                queued = queued_runs(*places)
                if not any(queued_run.is_live for run, queued_run in queued.items() if run in mine):
                    break
            except NoAnswer as silence:
                if told != (told := f"{silence}; still waiting"):
                    print(told, file=sys.stderr, flush=True)
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        return Submission(CONTINUE_LATER, [None] * len(jobs))
    return Submission(
        worst(_ending(job.run_dir, queued.get(job.run_dir)) for job in jobs), [job.objective for job in jobs]
    )


def _ending(run_dir: Path, queued_run: QueuedRun | None) -> int:
    """Return the exit code of an ended run; prints why it is not finished."""
    row = row_of(ListedRun(None, run_dir, ""), queued_run.queue_state() if queued_run else None)
    if row.code != DONE:
        mark = "" if row.code in (GATE_NO, GATE_UNDECIDED, CONTINUE_LATER) else "error: "
        print(f"{mark}{run_dir}: {row.reason or row.state} (exit code {row.code})", file=sys.stderr, flush=True)
    return row.code
