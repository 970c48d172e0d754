"""Hydra launcher for `-m`: all combinations are composed and checked before the first job starts."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.errors import UserError
from psychocounsel.rundir.sweep import Place, SweepFolder, is_unused, namings
from psychocounsel.settings.messages import one_line
from psychocounsel.settings.parallel import MANY, in_parallel
from psychocounsel.settings.sweep import Row, with_rows
from psychocounsel.storage.files import expanded


class LaunchedJob(Protocol):
    """The fields of a job that the launcher reads."""

    config: DictConfig
    run_dir: Path
    overrides: list[str]


class SweepResult(Protocol):
    """Result of a sweep: the worst exit code, and each job's objective (None if unknown)."""

    exit_code: int
    objectives: list[float | None]


def register(
    make_job: Callable[[DictConfig, list[str], int, Place], LaunchedJob],
    act: Callable[[list[Any], DictConfig], SweepResult],
    rows: list[Row],
    exit_codes: list[int],
    *sweepers: type,
    announce: Callable[[Any], None],
) -> None:
    """Register the launcher with Hydra, which instantiates plugins only from the package `hydra_plugins`.

    `make_job` turns (composed configuration, overrides, index, place in the sweep) into a checked job. `act` gets all jobs
    and the configuration of the first one. Every combination of a sweep runs with each of `rows` (overrides that belong
    together). `announce` gets the first of many jobs before the others are made. The sweep's exit code is appended to
    `exit_codes`. `sweepers` are registered too.
    """
    JobLauncher.make_job, JobLauncher.act = staticmethod(make_job), staticmethod(act)
    JobLauncher.announce = staticmethod(announce)
    JobLauncher.rows, JobLauncher.exit_codes = rows, exit_codes
    plugins = Plugins.instance()  # its first call searches for installed plugins
    try:
        import_module("hydra_plugins")
    except ImportError:  # no other plugin is installed
        sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    home = ModuleType(JobLauncher.__module__)
    sys.modules[home.__name__] = home
    for plugin in (JobLauncher, _sweeper(), *sweepers):
        setattr(home, plugin.__name__, plugin)
        plugins.register(plugin)


def _sweeper() -> type:
    """Return Hydra's sweeper without its check of every combination, which would compose each of them once more."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # the search for plugins imports this again

    class JobSweeper(BasicSweeper):
        __module__, __qualname__ = "hydra_plugins.psychocounsel", "JobSweeper"

        def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
            pass  # the launcher composes and checks all combinations before it starts one

    return JobSweeper


class JobLauncher(Launcher):
    """Launcher that makes one job of each combination and submits all jobs in one call."""

    __module__ = "hydra_plugins.psychocounsel"
    make_job: ClassVar[Any]
    act: ClassVar[Any]
    announce: ClassVar[Any]
    exit_codes: ClassVar[list[int]]
    rows: ClassVar[list[Row]]
    sweeps: ClassVar[list[tuple[Path, list[Path]]]] = []  # requested folders, and their parents that did not exist

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.master = config
        loader: Any = hydra_context.config_loader
        self.loader = loader
        self.sweep = expanded(config.hydra.sweep.dir).resolve()
        self.sweeps.append((self.sweep, [path for path in self.sweep.parents if not path.exists()]))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        combinations = list(map(list, with_rows(job_overrides, self.rows)))
        folder = SweepFolder(self.sweep)
        places = [Place(folder, naming) for naming in namings(combinations)]
        indices = range(initial_job_idx, initial_job_idx + len(places))
        return self.start(self.make_all(list(zip(indices, combinations, places, strict=True))))

    def make_all(self, numbered: Sequence[tuple[Any, ...]]) -> list[LaunchedJob]:
        """Compose and check many jobs, each given by its index, overrides, place, and a function that changes its configuration.

        Raises:
            UserError: for the first job that cannot work.
        """
        if self.master.run_dir:
            raise UserError("run_dir names one run: with -m give sweep_dir=..., and each job gets a folder in it")
        made = [self.make(*arguments) for arguments in numbered[:1]]
        if len(numbered) > MANY:
            self.announce(made[0])
        return [*made, *in_parallel(lambda arguments: self.make(*arguments), numbered[1:])]

    def start(self, jobs: list[LaunchedJob]) -> list[JobReturn]:
        """Submit checked jobs, all at once.

        Raises:
            UserError: if two jobs would use the same folder.
        """
        _refuse_shared_directories(jobs)
        submission = self.act(jobs, jobs[0].config)
        self.exit_codes.append(submission.exit_code)
        return [_result(job.overrides, objective) for job, objective in zip(jobs, submission.objectives, strict=True)]

    def make(
        self, index: int, overrides: list[str], place: Place, change: Callable[[DictConfig], None] = lambda _: None
    ) -> LaunchedJob:
        """Compose and check one combination.

        Raises:
            UserError: naming the combination, if it cannot work.
        """
        try:
            composed = self._compose(overrides)
            change(composed)
            return self.make_job(composed, overrides, index, place)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            message = one_line(error, overrides)
            advice = "; use two commands for choices with different keys" if "unknown key" in message else ""
            raise UserError(f"combination {' '.join(overrides)}: {message}{advice}") from error

    def _compose(self, overrides: list[str]) -> DictConfig:
        config: DictConfig = self.loader.load_sweep_config(self.master, overrides)
        OmegaConf.set_struct(config, False)
        return config


def _refuse_shared_directories(jobs: list[LaunchedJob]) -> None:
    owners: dict[Path, LaunchedJob] = {}
    for job in jobs:
        other = owners.setdefault(job.run_dir, job)
        if other is not job:
            raise UserError(
                f"{' '.join(other.overrides)} and {' '.join(job.overrides)} would share {job.run_dir}: "
                "sweep keys that distinguish the runs"
            )


def remove_unused() -> None:
    """Remove the empty folder of a sweep that did not start; Hydra writes multirun.yaml before the checks."""
    while JobLauncher.sweeps:
        sweep, new_parents = JobLauncher.sweeps.pop()
        if is_unused(sweep):
            shutil.rmtree(sweep)
            with contextlib.suppress(OSError):
                for parent in new_parents:
                    parent.rmdir()  # succeeds only if the folder is empty


def _result(overrides: list[str], objective: Any) -> JobReturn:
    result = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    result.return_value = objective
    return result
