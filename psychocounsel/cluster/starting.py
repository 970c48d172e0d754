"""`submit` is the one way to start jobs, anywhere."""

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.cluster.base import Cluster
from psychocounsel.cluster.job import Job, Submission, check_process_count, is_done, pin, write_run_directory
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import SweepDir
from psychocounsel.rundir.run_config import has_config
from psychocounsel.rundir.sweep_table import add_to_table
from psychocounsel.settings import config as configs
from psychocounsel.settings.parallel import in_parallel
from psychocounsel.storage.files import write_atomically


def submit(jobs: list[Job], config: DictConfig) -> Submission:
    """Check every job's directory, write them, and hand all to the cluster that `config.cluster` names.

    Raises:
        UserError: if one cannot be started; directories that were made for this are gone then.
    """
    if len({job.config.cluster._target_ for job in jobs}) > 1:
        raise UserError("a sweep has one cluster: give cluster=slurm and cluster=local in commands of their own")
    for job in jobs:
        pin(job)
        job.finished = is_done(job)
        check_process_count(job)
    cluster: Cluster = configs.build(config, "cluster")
    if config.dry_run:
        print(cluster.describe(jobs))
        return Submission(0, [None] * len(jobs))
    cluster.select(jobs)
    with _removed_on_failure(jobs):
        in_parallel(write_run_directory, [job for job in jobs if not job.skip])
        if config.sweep_dir:
            add_to_table(Path(config.sweep_dir), [(job.run_dir, job.overrides) for job in jobs])
        return cluster.submit(jobs)


@contextmanager
def _removed_on_failure(jobs: list[Job]) -> Iterator[None]:
    """Run directories that are new, and in which nothing has run, go if the block fails."""
    new = [job for job in jobs if not job.skip and not has_config(job.run_dir)]
    sweep = Path(jobs[0].config.sweep_dir) if jobs[0].config.sweep_dir else None
    table = SweepDir(sweep).table if sweep else None
    before = table.read_text() if table and table.exists() else None
    parents = sorted({path for job in new for path in job.run_dir.parents if not path.exists()}, reverse=True)
    try:
        yield
    except (UserError, OSError):
        for job in new:
            if not job.files.logs.exists():
                shutil.rmtree(job.run_dir, ignore_errors=True)
        with contextlib.suppress(OSError):
            if table and before is not None:
                write_atomically(table, before)
            elif sweep and not any(job.run_dir.exists() for job in new):
                shutil.rmtree(sweep)
        for path in parents:
            with contextlib.suppress(OSError):
                path.rmdir()  # goes only if it is empty
        raise
