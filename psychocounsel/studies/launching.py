"""`launch`: its command line, and its work: plan the study, then show it or run its unfinished jobs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from psychocounsel.cluster.base import Cluster
from psychocounsel.cluster.job import pin
from psychocounsel.cluster.local import Local
from psychocounsel.cluster.row_process import check_rows
from psychocounsel.errors import CONTINUE_LATER, DONE, UserError
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.sweep import add_to_table, key_of
from psychocounsel.settings import config as configs
from psychocounsel.settings.keys import refuse_lines_in_overrides
from psychocounsel.settings.overrides import parted
from psychocounsel.settings.targets import add_code_path
from psychocounsel.storage.files import absolute, write_atomically, write_json
from psychocounsel.storage.locks import Lock, holder
from psychocounsel.studies.forced_stages import ForcedStages
from psychocounsel.studies.local_run import run_here
from psychocounsel.studies.outline import ending, outline
from psychocounsel.studies.plan import StudyPlan, StudyRequest, write_record
from psychocounsel.studies.planning import merged, plan_study
from psychocounsel.studies.references import value_of, values_of_overrides
from psychocounsel.studies.study_file import Study, find_study, near, read_study, shipped_studies

# Command line: the study, its values, overrides of stages, and options of the run.

KEYS = ("study", "study_dir", "only", "start_at", "force", "parallel", "dry_run")
_OF_ALL_STAGES = ("cluster", "paths", "tracker")  # groups whose keys are passed to every stage


@dataclass
class Launch:
    """A command: the study with the typed values, its folder, and the stages and options of the run."""

    study: Study
    folder: Path
    only: list[str] = field(default_factory=list)
    start_at: str | None = None
    force: list[str] = field(default_factory=list)
    parallel: int = 1
    dry_run: bool = False
    common: list[str] = field(default_factory=list)  # overrides of every stage
    config_folders: list[Path] = field(default_factory=list)


def read_arguments(arguments: Sequence[str]) -> Launch:
    """Return the command for the arguments of `launch`.

    Raises:
        UserError: for an unknown study or key or an invalid value, with what to type instead.
    """
    options, overrides = parted(arguments)
    refuse_lines_in_overrides(overrides)
    folders = _config_folders(options)
    add_code_path(str(path) for folder in folders for path in (folder, folder.parent))  # commands of the user's own
    typed = {key_of(text): text for text in overrides if key_of(text) in KEYS and "=" in text}
    if "study" not in typed:
        raise UserError(
            f"study is not set: give study=NAME or study=FILE.yaml ({', '.join(shipped_studies()) or 'none ships'})"
        )
    file = find_study(_text("study", typed["study"]))
    study, launch_keys = read_study(file), {key: text for key, text in typed.items() if key != "study"}
    common, values = list[str](), dict(study.values)
    of_stages: dict[str, list[str]] = {}
    raw = values_of_overrides(study.stages.values())
    for text in (text for text in overrides if key_of(text) not in typed):
        key = key_of(text)
        group, _, rest = key.partition(".")
        if key in study.values:
            values[key] = _overrides(text) if key in raw else value_of(text)
        elif group in study.stages and rest:
            start = text[: len(text) - len(text.lstrip("+~"))]
            of_stages.setdefault(group, []).append(start + text.lstrip("+~").partition(".")[2])
        elif group in _OF_ALL_STAGES:
            common.append(text)
        else:
            _refuse(text, study)
    stages = dict(study.stages)
    for name, own in of_stages.items():
        stages[name] = replace(stages[name], overrides=tuple(merged(stages[name].overrides, own)))
    study = replace(study, values=values, stages=stages)
    folder = _text("study_dir", launch_keys.pop("study_dir", f"study_dir=studies/{study.name}"))
    launch = Launch(study, Path(absolute(folder)), common=common, config_folders=folders)
    for key, text in launch_keys.items():
        setattr(launch, key, _READ[key](key, text))
    if launch.folder.exists() and not launch.folder.is_dir():
        raise UserError(f"study_dir={folder}: is a file; give a folder")
    if is_run(launch.folder):
        raise UserError(f"study_dir={folder}: is the directory of a run; give another folder")
    return launch


def _overrides(text: str) -> Any:
    """Return a value that is used as overrides: literally, or as Hydra reads it if it is quoted or null."""
    value = text.partition("=")[2]
    return value_of(text) if value == "null" or value[:1] in ("'", '"') else value


def _refuse(text: str, study: Study) -> NoReturn:
    """Refuse a key that is neither the command's, nor a stage's, nor a value of the study."""
    key = key_of(text)
    rest = key.partition(".")[2]
    known = [*KEYS, *study.values, *(f"{stage}.{rest}" for stage in study.stages if rest)]
    has = ", ".join([*study.values, *(f"{stage}.KEY" for stage in study.stages), *KEYS, "cluster", "paths", "tracker"])
    raise UserError(f"{text}: is not a key of study={study.name}; {near(key, known)}(it has {has})")


def _config_folders(options: Sequence[str]) -> list[Path]:
    folders = []
    for place in range(0, len(options)):
        name, _, value = options[place].partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(absolute(value or options[place + 1])))
        elif name.startswith("-"):
            raise UserError(f"{name}: launch has no such option; see --help")
    return folders


def _text(key: str, text: str) -> str:
    value = value_of(text)
    if not isinstance(value, str) or not value:
        raise UserError(f"{text}: give one name or path, as {key}=NAME")
    return value


def _names(key: str, text: str) -> list[str]:
    value = value_of(text)
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{text}: give stages, as {key}=[NAME,NAME]")
    return names


def _count(key: str, text: str) -> int:
    value = value_of(text)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{text}: give the number of parallel runs, 1 or more")
    return value


def _truth(key: str, text: str) -> bool:
    value = value_of(text)
    if not isinstance(value, bool):
        raise UserError(f"{text}: must be true or false")
    return value


_READ: dict[str, Any] = {
    "only": _names,
    "start_at": _text,
    "force": _names,
    "parallel": _count,
    "dry_run": _truth,
}

# Work.


def launch(command: Launch) -> int:
    """Plan a study and run it, or show it with dry_run=true; return the exit code.

    Raises:
        UserError: with all mistakes in the study; if another process launches it; if it cannot be submitted.
    """
    files = StudyDir(command.folder)
    if command.dry_run:
        plan, _ = _planned(command, files)
        print(outline(plan, _cluster(plan, command)))
        if owner := holder(files.owner):
            print(f"a launcher is running here: process {owner['pid']} on {owner['host']}")
        return DONE
    _refuse_others(files)
    with _folder(files.path), _owned(files):  # nobody else changes the folder between the plan and the runs
        plan, forced = _planned(command, files)
        cluster = _cluster(plan, command)
        print("\n".join(plan.notes), end="\n" if plan.notes else "", flush=True)
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
    request = StudyRequest(
        command.only, command.start_at, command.common, command.force, forced.times, command.config_folders
    )
    return plan_study(command.study, command.folder, request), forced


def _cluster(plan: StudyPlan, command: Launch) -> Cluster:
    """Return the cluster shared by all jobs.

    Raises:
        UserError: if jobs have different clusters, or `parallel` is given to one with a queue.
    """
    jobs = [job for group in plan.groups() for job in group]
    targets = {job.config.cluster._target_ for job in jobs}
    if len(targets) > 1:
        raise UserError("a study has one cluster: give cluster=slurm to launch, which passes it to every stage")
    cluster: Cluster = configs.build(jobs[0].config, "cluster")
    if command.parallel > 1 and not isinstance(cluster, Local):
        raise UserError(
            f"parallel={command.parallel}: is for runs on this machine; leave it out, because a queue decides what runs at "
            "the same time (with cluster=slurm also cluster.max_parallel)"
        )
    return cluster


def _check_rows(plan: StudyPlan, cluster: Cluster) -> None:
    """Check the rows of all jobs whose data and model exist, before the first job starts."""
    jobs = [cell.job for planned in plan.stages for cell in planned.unfinished()]
    for job in jobs:
        pin(job)
    for trains in (True, False):
        alike = [job for job in jobs if job.command.trains is trains and job.command.reads_rows(job.config)]
        lines = (
            cluster.check_rows(alike) if alike and isinstance(cluster, Local) else check_rows(alike) if alike else []
        )
        for line in lines:
            if "does not exist yet" not in line:
                print(line, flush=True)


def _submit(plan: StudyPlan, cluster: Cluster) -> int:
    """Submit all jobs to a cluster that starts each one after its dependencies."""
    for planned in plan.stages:
        unfinished = planned.unfinished()
        for cell in unfinished:
            write_record(cell.run_dir, planned.name, cell.fingerprint)
        if unfinished:
            add_to_table(
                plan.files.stage(planned.name).path, [(cell.run_dir, cell.job.overrides) for cell in unfinished]
            )
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
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a folder with content stays, and so do its parents
            for folder in new:
                folder.rmdir()
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
