"""What `launch` does once its command line is read: plan the study, show it, or run what has not finished."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psychocounsel.cluster.base import Cluster
from psychocounsel.cluster.checking.row_process import check_rows
from psychocounsel.cluster.job import pin
from psychocounsel.cluster.local import Local
from psychocounsel.errors import DONE, UserError
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.rundir.sweep_table import add_to_table
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import read_mapping, write_atomically, write_json
from psychocounsel.storage.locks import Lock, holder
from psychocounsel.studies.folders import write_record
from psychocounsel.studies.local_run import run_here
from psychocounsel.studies.outline import ending, outline
from psychocounsel.studies.planning import plan_study
from psychocounsel.studies.study_plan import StudyPlan, StudyRequest
from psychocounsel.studies.typed import Launch


def launch(command: Launch) -> int:
    """Plan a study and run it, or show it with dry_run=true; returns the exit code.

    Raises:
        UserError: for mistakes in the study, all at once; where another process launches it; where it cannot be submitted.
    """
    files = StudyDir(command.folder)
    _refuse_others(files)
    forced = _Forced.read(files).with_forced(command.force)
    asked = StudyRequest(
        command.only, command.start_at, command.common, command.force, forced.times, command.config_folders
    )
    plan = plan_study(command.study, command.folder, asked)
    cluster = _cluster(plan)
    if command.dry_run:
        print(outline(plan, cluster))
        return DONE
    files.path.mkdir(parents=True, exist_ok=True)
    with _owned(files):
        forced.write(files)
        write_atomically(files.study, command.study.text())
        write_json(files.cells, plan.listing())
        if isinstance(cluster, Local):
            code, failed = run_here(plan, cluster, command.parallel, lambda: _check_rows(plan, cluster))
            print(ending(plan, failed), flush=True)
        else:
            _check_rows(plan, cluster)
            code = _submit(plan, cluster)
        if code == DONE:
            forced.done(files)
    return code


def _cluster(plan: StudyPlan) -> Cluster:
    """The one cluster of all jobs."""
    jobs = [job for group in plan.groups() for job in group]
    targets = {job.config.cluster._target_ for job in jobs}
    if len(targets) > 1:
        raise UserError("a study has one cluster: give cluster=slurm after launch, which goes to every stage")
    cluster: Cluster = configs.build(jobs[0].config, "cluster")
    return cluster


def _check_rows(plan: StudyPlan, cluster: Cluster) -> None:
    """Read the rows of all jobs whose data and model are there already, before the first one starts."""
    jobs = [cell.job for each in plan.stages if each.is_asked for cell in each.cells if not cell.job.finished]
    for job in jobs:
        pin(job)
    for trains in (True, False):
        alike = [job for job in jobs if ("algo" in job.config) is trains and not job.makes_tables]
        lines = (
            cluster.check_rows(alike) if alike and isinstance(cluster, Local) else check_rows(alike) if alike else []
        )
        for line in lines:
            if "is yet to be made" not in line:
                print(line, flush=True)


def _submit(plan: StudyPlan, cluster: Cluster) -> int:
    """Hand all jobs to a cluster that starts them when their turn comes."""
    for each in plan.stages:
        unfinished = [cell for cell in each.cells if each.is_asked and not cell.job.finished]
        for cell in unfinished:
            write_record(cell.run_dir, each.name, cell.fingerprint)
        if unfinished:
            add_to_table(plan.files.stage(each.name).path, [(cell.run_dir, cell.job.overrides) for cell in unfinished])
    return cluster.submit_study(plan.groups()).exit_code


@dataclass
class _Forced:
    """`forced.json`: how often each stage was made anew, and which of these commands have not finished yet.

    A command that was killed and is given again forces nothing anew: it goes on.
    """

    times: dict[str, int]
    pending: list[str]

    @classmethod
    def read(cls, files: StudyDir) -> "_Forced":
        record = read_mapping(files.forced)
        return cls(dict(record.get("times", {})), list(record.get("pending", [])))

    def with_forced(self, stages: list[str]) -> "_Forced":
        """The same after a command with force=[STAGES]."""
        new = [stage for stage in dict.fromkeys(stages) if stage not in self.pending]
        times = self.times | {stage: self.times.get(stage, 0) + 1 for stage in new}
        return _Forced(times, [*self.pending, *new])

    def write(self, files: StudyDir) -> None:
        if self.times:
            write_json(files.forced, {"times": self.times, "pending": self.pending})

    def done(self, files: StudyDir) -> None:
        """The command has finished: the next one may force these stages again."""
        if self.pending:
            write_json(files.forced, {"times": self.times, "pending": []})


def _refuse_others(files: StudyDir) -> None:
    if owner := holder(files.owner):
        raise UserError(
            f"{files.path}: this study is being run by process {owner['pid']} on {owner['host']}: wait for it, or stop it; the "
            "same command then goes on"
        )


@contextmanager
def _owned(files: StudyDir) -> Iterator[None]:
    """Hold the study while the block runs; of a dead launcher it is taken over."""
    lock = Lock(files.owner)
    while not lock.take():
        _refuse_others(files)
    try:
        yield
    finally:
        lock.release()
