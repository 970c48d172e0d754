"""Ending submitted runs, and submitting again what did not finish."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.cluster.job import Job, check_process_count, read_run
from psychocounsel.cluster.slurm import scheduler
from psychocounsel.cluster.slurm.standings import Standing, standings
from psychocounsel.cluster.slurm.submitting import submit_jobs
from psychocounsel.cluster.status import Row, rows
from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.settings import config as configs
from psychocounsel.settings.schema import check_limits, flat_keys
from psychocounsel.storage.files import write_atomically


def cancel(folder: Path, indices: Sequence[int]) -> None:
    """Ask SLURM to end the runs that wait or run.

    Raises:
        UserError: if SLURM refuses.
    """
    live = [row for row in _chosen(rows(folder), indices) if row.is_live and row.task]
    standing = standings(submissions.home_of(folder), ask=False)
    names = {name for row in live for name in _names(standing[row.run_dir])}
    scheduler.cancel(sorted(names))
    print(f"cancelled {len(live)} runs" if live else "nothing waits or runs")


def _names(here: Standing) -> list[str]:
    """The run's task in every segment of its chain."""
    return [f"{job}_{here.index}" if here.record.is_array else job for job in here.record.jobs]


def resubmit(folder: Path, indices: Sequence[int], given: Sequence[str]) -> None:
    """Submit again what neither finished nor waits nor runs; each run goes on from its checkpoint.

    Raises:
        UserError: for an index that is live or unknown, or a key that is neither cluster.* nor code.
    """
    chosen = _chosen(rows(folder), indices)
    if indices and (wrong := [row for row in chosen if row.is_live or row.state == "finished"]):
        raise UserError(f"index {wrong[0].index} is {wrong[0].state}: it needs no resubmission")
    todo = [row for row in chosen if not row.is_live and row.state != "finished"]
    if not todo:
        print("every run is finished, waits or runs")
        return
    overrides = dict(text.split("=", 1) for text in given)
    which = overrides.pop("code", "same")
    if which not in ("same", "current"):
        raise UserError(f"code={which}: must be same or current")
    jobs = [_job(row, [f"{key}={value}" for key, value in overrides.items()]) for row in todo]
    place = submissions.home_of(folder) if not (folder / "sweep.jsonl").exists() else folder
    code = _code(place, todo) if which == "same" else None
    for job in jobs:
        write_atomically(job.run_dir / "config.yaml", OmegaConf.to_yaml(job.config))
        (job.run_dir / "summary.json").unlink(missing_ok=True)  # of the attempt that stopped
    submit_jobs(place, jobs, code)


def _chosen(found: list[Row], indices: Sequence[int]) -> list[Row]:
    if unknown := set(indices) - {row.index for row in found}:
        raise UserError(f"there is no index {min(unknown)}: they go from 0 to {len(found) - 1}")
    return [row for row in found if not indices or row.index in indices]


def _job(row: Row, overrides: Sequence[str]) -> Job:
    about, config = read_run(row.run_dir)
    for text in overrides:
        _apply(config, text)
    _check_cluster(config)
    cluster = configs.build(config, "cluster")
    cluster.check()
    sweep = row.run_dir.parent
    config.run_dir = str(row.run_dir)  # the folder may have been moved
    if config.sweep_dir:
        config.sweep_dir = str(sweep)
    processes = cluster.process_count()
    job = Job(about["module"], config, row.run_dir, row.index, processes=processes, after=about.get("after", []))
    check_process_count(job)
    return job


def _apply(config: DictConfig, text: str) -> None:
    try:
        override = OverridesParser.create().parse_override(text)
    except OverrideParseException as error:
        raise UserError(f"{text}: cannot be read") from error
    key = override.key_or_group
    if not key.startswith("cluster."):
        raise UserError(f"{key}: a run goes on as it began; only cluster.* and code= may be given here")
    if OmegaConf.select(config, key, default=_MISSING) is _MISSING and not key.startswith(
        ("cluster.environment.", "cluster.sbatch.")
    ):
        raise UserError(configs.unknown_key(key, flat_keys(config.cluster, "cluster.")))
    OmegaConf.update(config, key, override.value(), force_add=True)


_MISSING: Any = object()


def _check_cluster(config: DictConfig) -> None:
    target: Any = configs.target_class(config, "cluster")
    try:
        values = {key: value for key, value in config.cluster.items() if key != "_target_"}
        merged = OmegaConf.merge(OmegaConf.structured(target), values)
    except OmegaConfBaseException as error:
        raise UserError(f"cluster.{error.full_key}: {str(error).splitlines()[0]}") from error
    check_limits(target, merged, "cluster.")


def _code(place: Path, todo: Sequence[Row]) -> list[Path]:
    """The copy of the code that the runs were submitted with.

    Raises:
        UserError: if they were submitted with several, or it is gone.
    """
    standing = standings(place, ask=False)
    used = {tuple(standing[row.run_dir].record.code) for row in todo if row.run_dir in standing}
    if len(used) > 1:
        raise UserError("these runs were submitted with several states of the code: give indices, or code=current")
    paths = [place / path for path in next(iter(used), ())]
    if not paths or not all(path.is_dir() for path in paths):
        raise UserError(f"{place}/code does not hold the code that these runs were submitted with: give code=current")
    return paths
