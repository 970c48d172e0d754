"""Work of `launch` after its command line is read: plan the study, then show it or run its unfinished jobs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psychocounsel.cluster.base import Cluster
from psychocounsel.cluster.checking.row_process import check_rows
from psychocounsel.cluster.job import pin
from psychocounsel.cluster.local import Local
from psychocounsel.errors import CONTINUE_LATER, DONE, UserError
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.rundir.sweep_table import add_to_table
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import write_atomically, write_json
from psychocounsel.storage.locks import Lock, holder
from psychocounsel.studies.folders import write_record
from psychocounsel.studies.local_run import run_here
from psychocounsel.studies.outline import ending, outline
from psychocounsel.studies.planning import plan_study
from psychocounsel.studies.standing.forced_stages import ForcedStages
from psychocounsel.studies.study_plan import StudyPlan, StudyRequest
from psychocounsel.studies.typed import Launch


def launch(command: Launch) -> int:
    """Plan a study and run it, or show it with dry_run=true; return the exit code.

    Raises:
        UserError: with all mistakes in the study; if another process launches it; if it cannot be submitted.
    """
    files = StudyDir(command.folder)
    if command.dry_run:
        plan, _ = _planned(command, files)
        print(outline(plan, _cluster(plan)))
        if owner := holder(files.owner):
            print(f"a launcher is running here: process {owner['pid']} on {owner['host']}")
        return DONE
    _refuse_others(files)
    with _folder(files.path), _owned(files):  # nobody else changes the folder between the plan and the runs
        plan, forced = _planned(command, files)
        cluster = _cluster(plan)
        forced.write(files)
        write_atomically(files.study, command.study.text())
        write_json(files.cells, plan.listing())
        if not isinstance(cluster, Local):
            _check_rows(plan, cluster)
            code = _submit(plan, cluster)
            forced.queued(plan).write(files)
            return code
        code, failed = run_here(plan, cluster, command.parallel, lambda: _check_rows(plan, cluster))
        print(ending(plan, failed), flush=True)
        if code != CONTINUE_LATER:
            forced.ended(plan).write(files)
    return code


def _planned(command: Launch, files: StudyDir) -> tuple[StudyPlan, ForcedStages]:
    """Return the plan for the current state of the study's folder, and the stages forced by this command."""
    forced = ForcedStages.read(files).with_forced(command.force, files)
    asked = StudyRequest(
        command.only, command.start_at, command.common, command.force, forced.times, command.config_folders
    )
    return plan_study(command.study, command.folder, asked), forced


def _cluster(plan: StudyPlan) -> Cluster:
    """Return the cluster shared by all jobs."""
    jobs = [job for group in plan.groups() for job in group]
    targets = {job.config.cluster._target_ for job in jobs}
    if len(targets) > 1:
        raise UserError("a study has one cluster: give cluster=slurm to launch, which passes it to every stage")
    cluster: Cluster = configs.build(jobs[0].config, "cluster")
    return cluster


def _check_rows(plan: StudyPlan, cluster: Cluster) -> None:
    """Check the rows of all jobs whose data and model exist, before the first job starts."""
    jobs = [cell.job for each in plan.stages if each.is_asked for cell in each.cells if not cell.job.finished]
    for job in jobs:
        pin(job)
    for trains in (True, False):
        alike = [job for job in jobs if ("algo" in job.config) is trains and not job.makes_tables]
        lines = (
            cluster.check_rows(alike) if alike and isinstance(cluster, Local) else check_rows(alike) if alike else []
        )
        for line in lines:
            if "does not exist yet" not in line:
                print(line, flush=True)


def _submit(plan: StudyPlan, cluster: Cluster) -> int:
    """Submit all jobs to a cluster that starts each one after its dependencies."""
    for each in plan.stages:
        unfinished = [cell for cell in each.cells if each.is_asked and not cell.job.finished]
        for cell in unfinished:
            write_record(cell.run_dir, each.name, cell.fingerprint)
        if unfinished:
            add_to_table(plan.files.stage(each.name).path, [(cell.run_dir, cell.job.overrides) for cell in unfinished])
    return cluster.submit_study(plan.groups()).exit_code


def _refuse_others(files: StudyDir) -> None:
    if owner := holder(files.owner):
        raise UserError(
            f"{files.path}: this study is being run by process {owner['pid']} on {owner['host']}: wait for it, or stop it; the "
            "same command then resumes"
        )


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make the study's folder. If the block fails, new empty folders are removed."""
    new = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a folder with content stays, and so do its parents
            for each in new:
                each.rmdir()
        raise


@contextmanager
def _owned(files: StudyDir) -> Iterator[None]:
    """Own the study during the block; ownership by a dead launcher is taken over."""
    lock = Lock(files.owner)
    while not lock.take():
        _refuse_others(files)
    try:
        yield
    finally:
        lock.release()
