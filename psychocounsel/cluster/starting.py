"""Start of jobs: `submit` is the only way, on every cluster."""

import contextlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from omegaconf import DictConfig

from psychocounsel.asking.system_prompts import refuse_system_prompts
from psychocounsel.cluster.base import Cluster, QueueState
from psychocounsel.cluster.job import Job, Submission, is_done, is_recorded, pin, write_run_directory
from psychocounsel.cluster.row_process import check_rows, to_be_fetched, unfetched
from psychocounsel.errors import UserError
from psychocounsel.reward.sections import local_models
from psychocounsel.rundir import submissions
from psychocounsel.rundir.manifest import check_can_go_on
from psychocounsel.rundir.owner import refuse_if_owned
from psychocounsel.rundir.paths import SubmissionHome, SweepDir
from psychocounsel.rundir.results import put_back
from psychocounsel.rundir.run_config import has_config, read_config, read_section
from psychocounsel.rundir.sweep import add_to_table, is_sweep, remove_from_table, runs_of
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings import config as configs
from psychocounsel.settings.own_code import is_agreed, require_agreement
from psychocounsel.settings.parallel import in_parallel
from psychocounsel.settings.targets import add_code_path, require_kind
from psychocounsel.storage.files import PACKAGE
from psychocounsel.storage.weight_files import check_model_folder

# The clusters of existing runs.


def by_cluster(runs: Iterable[Path], acts: bool = False) -> list[tuple[Cluster, list[Path]]]:
    """Return a cluster for each kind that `runs` name, with its runs; a run without configuration is skipped.

    A cluster has the settings of the first of its runs. A kind that a run's own code defines is skipped with a line until the
    user has agreed to that code; with `acts`, for commands that change runs, the user is asked.

    Raises:
        UserError: if the user's own kind cannot be imported from its original folders, or a run directory of
            another user names one, because a query about a run must not execute a stranger's code.
    """
    groups: dict[str, list[Path]] = {}
    for run in runs:
        settings = read_section(run, "cluster")
        target = settings.get("_target_") if isinstance(settings, dict) else None
        if isinstance(target, str) and (_is_ours(target) or _may_import(run, target, acts)):
            groups.setdefault(target, []).append(run)
    return [(_cluster_of(members[0]), members) for members in groups.values()]


def _is_ours(target: str) -> bool:
    return target.startswith(f"{PACKAGE.name}.")


def _may_import(run: Path, target: str, acts: bool) -> bool:
    refuse_untrusted_run(run, whole=False)
    if acts:
        require_agreement(run)
    elif not is_agreed(run):
        print(
            f"{run}: its cluster is not asked, because {target} is code of its own that you have not started",
            file=sys.stderr,
        )
        return False
    return True


def _cluster_of(run: Path) -> Cluster:
    config = read_config(run)
    if not _is_ours(config.cluster._target_):
        add_code_path(config.code_path)
    cluster: Cluster = configs.build(config, "cluster")
    return cluster


# Start of jobs.


def submit(jobs: list[Job], config: DictConfig) -> Submission:
    """Check every job's directory, write the directories, and submit all jobs to the cluster that `config.cluster` names.

    With `dry_run`, only print a description of the jobs.

    Raises:
        UserError: if a job cannot be started; newly made directories are removed then.
    """
    cluster = check_jobs(jobs, config)
    if config.dry_run:
        described = cluster.describe(jobs)
        missing = unfetched(_to_start(jobs))
        rows = [f"rows unchecked: {missing}"] if missing else check_rows(_to_start(jobs))
        asked = [line for job in _to_start(jobs) for line in job.command.forecast(job.config)]
        mark = "# " if config.dry_run == "script" else ""  # so that the output can be run
        notes = [*_not_installed(jobs), *rows, *to_be_fetched(_to_start(jobs)), *asked]
        print("\n".join([described, *(f"{mark}{line}" for note in notes for line in note.splitlines())]))
        return Submission(0, [None] * len(jobs))
    cluster.select(jobs)
    if to_start := _to_start(jobs):
        for line in cluster.check_rows(to_start):
            print(line, flush=True)
    with _removed_on_failure(jobs):
        in_parallel(write_run_directory, [job for job in jobs if not job.skip])
        for job in jobs:
            job.is_new = False  # in_parallel may have worked in other processes
        if config.sweep_dir:
            add_to_table(Path(config.sweep_dir), [(job.run_dir, job.overrides) for job in jobs])
        return require_kind(cluster, "submit", cluster.submit(jobs), Submission)


def check_jobs(jobs: list[Job], config: DictConfig) -> Cluster:
    """Return the jobs' cluster after checking their directories and the files of their models.

    New jobs are pinned to the fetched commits, and each job's `finished` is set.

    Raises:
        UserError: if a job cannot be started.
    """
    if len({job.config.cluster._target_ for job in jobs}) > 1:
        raise UserError("a sweep has one cluster: give cluster=slurm and cluster=local in separate commands")
    for job in jobs:
        pin(job)
        job.finished = is_done(job)
        if not job.finished:
            check_can_go_on(job.run_dir)
    for key, folder, weights in sorted(
        {model for job in jobs if not job.finished for model in local_models(job.config)}
    ):
        check_model_folder(Path(folder), key, weights)
    for job in jobs:
        if not job.finished:
            refuse_system_prompts(job.config)
    _refuse_live_elsewhere(jobs)
    _announce_corrections(jobs)
    cluster: Cluster = configs.build(config, "cluster")
    return cluster


def _refuse_live_elsewhere(jobs: list[Job]) -> None:
    """Refuse runs whose job waits or runs in another kind of cluster than the one that is to run them now.

    A cluster that does not answer, as where a run was copied to, refuses nothing.
    """
    moved = [
        job.run_dir
        for job in jobs
        if not job.finished
        and has_config(job.run_dir)
        and (read_section(job.run_dir, "cluster") or {}).get("_target_") != job.config.cluster._target_
    ]
    for cluster, runs in by_cluster(moved, acts=True):
        states: Mapping[Path, QueueState] = {}
        with contextlib.suppress(UserError):
            states = cluster.queue_states(runs)
        if live := [run for run, queue_state in states.items() if queue_state.is_live]:
            raise UserError(
                f"{live[0]}: its job waits or runs elsewhere: `psychocounsel jobs cancel {quote(str(live[0]))}` cancels it; then "
                "repeat this command"
            )


def _announce_corrections(jobs: list[Job]) -> None:
    """Print a line for each run without a step whose settings are corrected.

    Raises:
        UserError: if its job waits or runs, or a process works in its directory.
    """
    corrected = [job for job in jobs if job.corrected]
    for job in corrected:
        refuse_if_owned(job.run_dir)
        for cluster, runs in by_cluster([job.run_dir], acts=True):
            for queue_state in cluster.queue_states(runs).values():
                if queue_state.is_live:
                    state = "pending" if queue_state.phase == "waiting" else "running"
                    raise UserError(
                        f"{job.run_dir} belongs to a run with other settings ({job.corrected}), which is {state}: "
                        f"`psychocounsel jobs cancel {quote(str(job.run_dir))}` cancels its job; then repeat this command to "
                        "correct the settings"
                    )
    for job in corrected:
        print(f"{job.run_dir}: has made no step yet and is corrected: {job.corrected}", flush=True)


def _not_installed(jobs: list[Job]) -> list[str]:
    """Return lines about packages for rollouts that are not installed here."""
    rollouts = [
        configs.build(job.config, "rollout") for job in _to_start(jobs) if job.config.get("rollout") is not None
    ]
    return sorted({f"not installed here: {lacking}" for rollout in rollouts if (lacking := rollout.lacking())})


def _to_start(jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if not (job.skip or job.finished)]


def _times_submitted(runs: list[Path]) -> Counter[Path]:
    """Return how often each run was submitted to a queue."""
    homes = {submissions.home_of(run) for run in runs}
    records = [record for home in homes for record in submissions.read(home)]
    return Counter(run for record in records for task in record.tasks for run in task)


@contextmanager
def _removed_on_failure(jobs: list[Job]) -> Iterator[None]:
    """Remove new run directories in which nothing has run, and which no queue has, if the block fails or Ctrl-C ends it.

    Runs that should have been resumed, and that no queue has, get their earlier settings and summary back. While another
    command submits from the same folder, all stay, because it may submit these very runs.
    """
    new = [job for job in jobs if not job.skip and not has_config(job.run_dir)]
    resumed = [job.run_dir for job in jobs if not job.skip and has_config(job.run_dir)]
    times = _times_submitted(resumed)
    sweep = Path(jobs[0].config.sweep_dir) if jobs[0].config.sweep_dir else None
    was_sweep = sweep is not None and is_sweep(sweep)
    had_submissions = sweep is not None and SubmissionHome(sweep).submissions.exists()
    listed = {run.run_dir for run in runs_of(sweep)} if sweep and was_sweep else set[Path]()
    parents = sorted({path for job in new for path in job.run_dir.parents if not path.exists()}, reverse=True)
    try:
        yield
    except BaseException:
        homes = {submissions.home_of(job.run_dir) for job in new}
        if any(map(submissions.is_being_submitted, homes)):
            raise
        submitted = _times_submitted([job.run_dir for job in new])
        written = [job for job in new if not (job.is_new and has_config(job.run_dir)) or is_recorded(job)]
        gone = [job.run_dir for job in written if not job.files.logs.exists() and job.run_dir not in submitted]
        now = _times_submitted(resumed)
        for run_dir in resumed:
            if now[run_dir] == times[run_dir]:
                put_back(run_dir)
        for run_dir in gone:
            shutil.rmtree(run_dir, ignore_errors=True)
        with contextlib.suppress(OSError, UserError):
            if sweep and is_sweep(sweep):
                remove_from_table(sweep, [run_dir for run_dir in gone if run_dir not in listed])
            if sweep and not was_sweep and not (is_sweep(sweep) and runs_of(sweep)):  # no other command has runs in it
                for file in (SweepDir(sweep).table, SweepDir(sweep).multirun):
                    file.unlink(missing_ok=True)
                if not had_submissions:
                    shutil.rmtree(SubmissionHome(sweep).submissions, ignore_errors=True)
                sweep.rmdir()  # fails if the folder holds anything else
        for path in parents:
            with contextlib.suppress(OSError):
                path.rmdir()  # succeeds only if the folder is empty
        raise
