"""Job: one run directory and the command that runs in it."""

import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from psychocounsel import __version__
from psychocounsel.cluster.memory.check import keep_chosen
from psychocounsel.errors import UserError
from psychocounsel.remote import hub_sources
from psychocounsel.rundir import identity
from psychocounsel.rundir.paths import AnnotationDir, RunDir, cell_record
from psychocounsel.rundir.results import is_finished, keep_earlier, objective, read_metrics
from psychocounsel.rundir.run_config import (
    has_config,
    module_of,
    read_config,
    read_plain,
    refuse_other_command,
    write_config,
    write_job,
)
from psychocounsel.rundir.sweep import Place
from psychocounsel.rundir.trained_runs import is_up_to_date
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.search.settling import keep_settled
from psychocounsel.search.trials import name_journal
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import Command
from psychocounsel.settings.own_code import agree_to_own
from psychocounsel.steps.stored_overrides import lasting
from psychocounsel.storage.files import PACKAGE, write_atomically

# Results and steps in a run directory.


def made_nothing(run_dir: Path) -> bool:
    """Return True if the run has no steps, checkpoints, rounds, model or answers, only logs and settings."""
    files = RunDir(run_dir)
    return not any(map(_holds_something, [*_of_work(run_dir), files.metrics, files.checkpoints, files.model]))


def made_no_step(run_dir: Path) -> bool:
    """Return True if the run made nothing, or only evaluated and saved its initial model, and is not finished."""
    files = RunDir(run_dir)
    if is_finished(run_dir) or any(map(_holds_something, _of_work(run_dir))):
        return False
    lines = read_metrics(files.metrics)
    is_whole = not files.metrics.exists() or len(lines) == len(files.metrics.read_bytes().splitlines())
    saved = {checkpoint.path for checkpoint in files.checkpoint_dirs()} - {files.checkpoint(0).path}
    return is_whole and not saved and all(line["step"] == 0 for line in lines)


def remove_step_zero(run_dir: Path) -> None:
    """Remove the checkpoints, model, metrics and state of a run without a step (`made_no_step`). Logs stay."""
    files = RunDir(run_dir)
    for folder in (files.checkpoints, files.model):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (files.metrics, files.state, files.code):
        file.unlink(missing_ok=True)


def _of_work(run_dir: Path) -> list[Path]:
    """Return the files and folders with rounds, scores, audits and answers."""
    files, tables = RunDir(run_dir), AnnotationDir(run_dir)
    work = [files.rounds, files.scores, files.audit]
    work += [tables.answers, tables.steps, tables.shards]  # speeches without a record of their step are cheap
    return [*work, *files.journals]


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


# Corrected settings of a run that has made no step: its directory takes them, and the run restarts.


def correction(job: "Job", before: DictConfig) -> str:
    """Return the changed keys that the recorded run `before` would refuse on resume, with both values; "" without any.

    The result is also "" for a run that cannot be corrected, because another module made it or it has made a step; and for
    commands that work in steps, because their settings may change at any time.
    """
    config, run_dir = job.config, job.run_dir
    if job.works_in_steps or module_of(run_dir) != job.command.module or not made_no_step(run_dir):
        return ""
    new, old = identity.defining(config), identity.defining(before)
    keys = identity.differing(new, old)
    keys = [key for key in keys if key not in identity.LENGTHS or _is_shorter(new.get(key), old.get(key))]
    return identity.both_values(keys, new, old)


def _is_shorter(new: float | None, old: float | None) -> bool:
    """Return True if the new length is shorter. A run that has made a step refuses a shorter length."""
    return old is not None and new is not None and new < old


_CODE = [
    "*.py",
    "../conf/*.yaml",
    "../launch/*.yaml",
    "../slurm/*.j2",
    "../slurm/*.def",
]  # git matches files in subfolders too


@dataclass
class Job:
    """Everything a cluster needs to run `command` on `config` in `run_dir`."""

    command: Command
    config: DictConfig
    run_dir: Path
    index: int = 0
    overrides: list[str] = field(default_factory=list)
    processes: int = 1
    after: list[str] = field(default_factory=list)
    after_any: bool = False  # start when all of `after` have ended, even if they failed
    finished: bool = False  # the run directory contains this run, finished
    skip: str = ""  # reason for not starting the job
    corrected: str = ""  # changed keys of an earlier run here that made no step, with old and new values
    unused: dict[str, str] = field(default_factory=dict)  # overrides without effect in this run, with reasons
    is_new: bool = False  # True if its directory had no configuration when it was compared

    @property
    def files(self) -> RunDir:
        """Paths of the files in `run_dir`."""
        return RunDir(self.run_dir)

    @property
    def metric(self) -> str:
        """Name of the run's main figure."""
        return self.command.metric(self.config)

    @property
    def works_in_steps(self) -> bool:
        """True if its steps record their own inputs, so that its directory may get other settings."""
        return self.command.works_in_steps(self.config)

    @property
    def objective(self) -> float | None:
        """Best value of `metric`, or None before the run has ended."""
        return objective(self.run_dir, self.metric)


@dataclass
class Submission:
    """Result of the jobs, as far as the cluster waited for them: the worst exit code, and each job's objective or None."""

    exit_code: int
    objectives: list[float | None]


def make_job(
    command: Command, config: DictConfig, overrides: list[str], index: int = 0, place: Place | None = None
) -> Job:
    """Choose the run directory and compare the configuration with the run in it; nothing is written yet.

    `place` is the place in a sweep or study; without it, the directory is `run_dir`, or a new one.

    Raises:
        UserError: if the directory belongs to another configuration or user, or is not usable.
    """
    given = Path(config.run_dir) if config.run_dir else None
    run_dir = place.choose(config) if place else given or command.new_directory(config)
    config.run_dir, config.sweep_dir = str(run_dir), str(place.folder.path) if place else None
    refuse_untrusted_run(run_dir)
    job = Job(command, config, run_dir, index, overrides, after=list(config.after))
    if has_config(run_dir):
        refuse_other_command(run_dir, command.module, command.place)
        before = read_config(run_dir)
        if not (corrected := correction(job, before)):
            _keep(job, before)
            if not job.works_in_steps:
                identity.check_same_run(config, before, run_dir)
        job.corrected = corrected
    elif run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir}: is a file; give a folder")
    elif run_dir.is_dir() and set(run_dir.iterdir()) - {cell_record(run_dir)}:
        raise UserError(f"{command.place}={run_dir}: contains files but no run; give a new or empty folder")
    job.is_new = not has_config(run_dir)
    name_journal(config)
    job.processes = command.process_count(config) or configs.build(config, "cluster").process_count()
    command.prepare(config, run_dir)
    if job.works_in_steps:
        job.overrides = lasting(overrides)
    return job


def _keep(job: Job, before: DictConfig) -> None:
    """Keep the values of the run's first start: commits, micro-batch size, choices for `auto`, and `settled` values."""
    config = job.config
    hub_sources.keep_revisions(config, before, job.command.repositories(config))
    if config.get("micro_batch_tokens") == "auto":
        config.micro_batch_tokens = before.micro_batch_tokens
    keep_chosen(config, before)
    keep_settled(config, before)


def pin(job: Job) -> None:
    """Pin a new run to the commits that `prepare` fetched and record them; existing runs keep their own."""
    if not has_config(job.run_dir):
        hub_sources.pin(job.config, job.command.repositories(job.config))


def is_done(job: Job) -> bool:
    """Return True if the run directory contains a finished run of this length, and nothing that it measured has changed."""
    if not is_up_to_date(job.run_dir):
        return False
    return job.command.nothing_due(job.config, read_config(job.run_dir))


def is_recorded(job: Job) -> bool:
    """Return True if the run directory has the job's configuration, and not one of another command."""
    return read_plain(job.run_dir) == OmegaConf.to_container(job.config)


def write_run_directory(job: Job) -> None:
    """Write the files that the worker reads, and those for people who read the run.

    Raises:
        UserError: if another command has made this run with other settings since the directory was compared.
    """
    if job.is_new and has_config(job.run_dir) and not is_recorded(job):
        raise UserError(f"{job.run_dir}: another command has just made this run; repeat this command")
    job.is_new = False
    job.run_dir.mkdir(parents=True, exist_ok=True)
    keep_earlier(job.run_dir)
    job.files.summary.unlink(missing_ok=True)  # written by a shorter run that is now extended
    if job.corrected:
        remove_step_zero(job.run_dir)
    for_readers = {job.files.overrides: "".join(f"{line}\n" for line in job.overrides)}
    if not job.files.code.exists():
        for_readers[job.files.code] = _code_state()
    for file, content in for_readers.items():
        # Not durable: jobs do not need these after a crash, and a sweep would wait for every fsync.
        write_atomically(file, content, durable=False)
    write_config(job.run_dir, job.config)
    write_job(job.run_dir, job.command.module, job.index, job.after)
    agree_to_own(job.run_dir)


@cache
def _code_state() -> str:
    """Return the version, and in a git checkout the commit and the diff of the code, but not of data next to it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
        return result.stdout if result.returncode == 0 else ""

    state = f"psychocounsel {__version__}\n"
    try:
        if git("ls-files", "--error-unmatch", "errors.py"):
            state += f"commit {git('rev-parse', 'HEAD')}{git('diff', 'HEAD', '--', *_CODE)}"
    except (OSError, subprocess.TimeoutExpired):
        pass  # without git, the version must do
    return state
