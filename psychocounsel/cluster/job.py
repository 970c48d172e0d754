"""A job is one run directory and the module that works in it; `submit` is the one way to start jobs, anywhere."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel import __version__
from psychocounsel.errors import UserError
from psychocounsel.rundir import identity
from psychocounsel.rundir.manifest import checkpoint_to_go_on_from
from psychocounsel.settings import config as configs
from psychocounsel.settings import hub_sources
from psychocounsel.settings.parallel import in_parallel
from psychocounsel.storage.files import PACKAGE, read_json, write_atomically, write_json


@dataclass
class Job:
    """What a cluster needs to know to run `module` on `config` in `run_dir`."""

    module: str
    config: DictConfig
    run_dir: Path
    index: int = 0
    overrides: list[str] = field(default_factory=list)
    processes: int = 1
    after: list[str] = field(default_factory=list)
    finished: bool = False  # the run directory already holds this run, done
    skip: str = ""  # why the cluster is not to start it

    @property
    def metric(self) -> str:
        """What the run is judged by."""
        return self.config.checkpoint.metric if "checkpoint" in self.config else "accuracy"


@dataclass
class Submission:
    """How the jobs ended, as far as the cluster waited: the worst exit code, and each job's objective or None."""

    exit_code: int
    objectives: list[float | None]


def make_job(module: str, config: DictConfig, overrides: list[str], index: int, sweep: Path | None) -> Job:
    """Choose the run directory and hold it against what is there; nothing is written yet.

    Raises:
        UserError: if the directory belongs to another configuration, or cannot be one.
    """
    if sweep is not None:
        run_dir = sweep / identity.run_name(overrides)
    elif config.run_dir:
        run_dir = Path(config.run_dir)
    elif "algo" in config:
        algorithm = config.algo._target_.rsplit(".", 1)[-1].lower()
        run_dir = identity.new_directory(config.paths.output, algorithm, config.model.name)
    else:
        run_dir = identity.new_directory(config.paths.output, module.rpartition(".")[2], config.reward.name)
    config.run_dir, config.sweep_dir = str(run_dir), str(sweep) if sweep else None
    existing = run_dir / "config.yaml"
    if existing.exists():
        before = _load(existing)
        hub_sources.keep_revisions(config, before)
        if config.get("micro_batch_tokens") == "auto":
            config.micro_batch_tokens = before.micro_batch_tokens  # measured when the run began
        identity.check_same_run(config, before, run_dir)
    elif run_dir.is_file():
        raise UserError(f"run_dir={run_dir}: is a file; give a folder")
    elif run_dir.is_dir() and any(run_dir.iterdir()):
        raise UserError(f"run_dir={run_dir}: holds files but no run; give a new or empty folder")
    cluster = configs.build(config, "cluster")
    after = list(config.after)
    return Job(module, config, run_dir, index, overrides, processes=cluster.process_count(), after=after)


def _load(path: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); restore it or use another run_dir"
        ) from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: is not a run's configuration; use another run_dir")
    return loaded


def submit(jobs: list[Job], config: DictConfig) -> Submission:
    """Check every job's directory, write them, and hand all to the cluster that `config.cluster` names.

    Raises:
        UserError: if one cannot be started; directories that were made for this are gone then.
    """
    for job in jobs:
        pin(job)
        job.finished = is_finished(job)
        check_process_count(job)
    cluster = configs.build(config, "cluster")
    if config.dry_run:
        print(cluster.describe(jobs))
        return Submission(0, [None] * len(jobs))
    cluster.select(jobs)
    with _removed_on_failure(jobs):
        in_parallel(write_run_directory, [job for job in jobs if not job.skip])
        if config.sweep_dir:
            _write_sweep_table(Path(config.sweep_dir), jobs)
        return cluster.submit(jobs)


@contextmanager
def _removed_on_failure(jobs: list[Job]) -> Iterator[None]:
    """Run directories that are new, and in which nothing has run, go if the block fails."""
    new = [job.run_dir for job in jobs if not job.skip and not (job.run_dir / "config.yaml").exists()]
    sweep = Path(jobs[0].config.sweep_dir) if jobs[0].config.sweep_dir else None
    table = sweep / "sweep.jsonl" if sweep else None
    before = table.read_text() if table and table.exists() else None
    parents = sorted({path for run in new for path in run.parents if not path.exists()}, reverse=True)
    try:
        yield
    except (UserError, OSError):
        for run_dir in new:
            if not (run_dir / "logs").exists():
                shutil.rmtree(run_dir, ignore_errors=True)
        with contextlib.suppress(OSError):
            if table and before is not None:
                write_atomically(table, before)
            elif sweep and table and not [path for path in sweep.iterdir() if path.name in {run.name for run in new}]:
                shutil.rmtree(sweep)
        for path in parents:
            with contextlib.suppress(OSError):
                path.rmdir()  # goes only if it is empty
        raise


def pin(job: Job) -> None:
    """Let a new run use the commits that `prepare` fetched, and say so in its configuration; others keep their own."""
    if not (job.run_dir / "config.yaml").exists():
        hub_sources.pin(job.config)


def check_process_count(job: Job) -> None:
    """Refuse to go on with another number of processes than the checkpoint was written by, or from an archive."""
    checkpoint = None if job.finished else checkpoint_to_go_on_from(job.run_dir)
    if checkpoint is None:
        return
    written = (read_json(checkpoint / "loop.json") or {}).get("processes")
    if written != job.processes:
        raise UserError(
            f"{job.run_dir} was written by {written} processes and cannot go on with {job.processes}: "
            f"use cluster.processes={written}"
        )


def is_finished(job: Job) -> bool:
    """True if the run directory holds a finished run of this length."""
    if not is_run_finished(job.run_dir):
        return False
    before = _load(job.run_dir / "config.yaml")
    return all(before.get(key) == job.config.get(key) for key in ("max_steps", "epochs"))


def is_run_finished(run_dir: Path) -> bool:
    return (read_json(run_dir / "summary.json") or {}).get("status") == "finished"


def objective(job: Job) -> float | None:
    """The best value of the metric that the run is judged by, or None."""
    summary = read_json(job.run_dir / "summary.json") or {}
    metrics = summary.get("metrics") or {}
    return (metrics.get("best") or {}).get(job.metric) if "checkpoint" in job.config else metrics.get(job.metric)


def write_run_directory(job: Job) -> None:
    """Write what a worker reads (`config.yaml`, `job.json`) and what a reader of the run wants to know."""
    job.run_dir.mkdir(parents=True, exist_ok=True)
    (job.run_dir / "summary.json").unlink(missing_ok=True)  # of a shorter run that now goes on
    for_readers = {"overrides.txt": "".join(f"{line}\n" for line in job.overrides)}
    if not (job.run_dir / "code.txt").exists():
        for_readers["code.txt"] = _code_state()
    for name, content in for_readers.items():  # no job needs them after a crash, and a sweep waits for every fsync
        write_atomically(job.run_dir / name, content, durable=False)
    write_atomically(job.run_dir / "config.yaml", OmegaConf.to_yaml(job.config))
    write_json(job.run_dir / "job.json", {"module": job.module, "index": job.index, "after": job.after})


def _write_sweep_table(sweep: Path, jobs: list[Job]) -> None:
    """`sweep.jsonl`: index, overrides and folder of every job; those of earlier commands keep their lines."""
    path = sweep / "sweep.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = {row["run_dir"]: row for row in map(json.loads, lines)}
    for job in jobs:
        folder = str(job.run_dir.relative_to(sweep))
        rows.setdefault(folder, {"index": len(rows), "overrides": job.overrides, "run_dir": folder})
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows.values()))


@cache
def _code_state() -> str:
    """The version, and in a git checkout the commit and the difference to it."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, timeout=20)
        return result.stdout if result.returncode == 0 else ""

    state = f"psychocounsel {__version__}\n"
    try:
        if git("ls-files", "--error-unmatch", "errors.py"):
            state += f"commit {git('rev-parse', 'HEAD')}{git('diff', 'HEAD')}"
    except (OSError, subprocess.TimeoutExpired):
        pass  # no git here: the version has to do
    return state


def read_run(run_dir: Path) -> tuple[dict[str, Any], DictConfig]:
    """Return `job.json` and the configuration of a run directory.

    Raises:
        UserError: if it is not one.
    """
    job = read_json(run_dir / "job.json")
    if job is None or not (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir}: is not a run directory (it has no job.json and config.yaml)")
    return job, _load(run_dir / "config.yaml")
