"""`jobs cancel` and `jobs resubmit`: cancel runs, and submit unfinished runs again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.cluster.base import Cluster
from psychocounsel.cluster.job import Job
from psychocounsel.cluster.kinds import by_cluster
from psychocounsel.cluster.standing.status import Row, rows
from psychocounsel.cluster.standing.status_lines import refuse_unknown_index
from psychocounsel.errors import UserError
from psychocounsel.rundir.manifest import check_can_go_on
from psychocounsel.rundir.run_config import read_run, write_config
from psychocounsel.rundir.summary import remove_summary
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings import config as configs
from psychocounsel.settings.code_path import add_code_path
from psychocounsel.settings.keys import refuse_control_characters
from psychocounsel.settings.schema import check_limits, flat_keys
from psychocounsel.storage.files import write_atomically


def cancel(folder: Path, indices: Sequence[int]) -> None:
    """Ask the clusters to cancel the runs that wait or run.

    Raises:
        UserError: if an index is unknown, or a cluster refuses.
    """
    end(_chosen(rows(folder), indices))


def end(found: Sequence[Row]) -> None:
    """Ask the clusters to cancel the waiting and running ones of these runs. Raises UserError if a cluster refuses."""
    live = [row.run_dir for row in found if row.is_live]
    for cluster, runs in by_cluster(live):
        cluster.cancel(runs)
    print(f"cancelled {len(live)} runs" if live else "nothing waits or runs")


def resubmit(folder: Path, indices: Sequence[int], given: Sequence[str]) -> None:
    """Submit again every run that is neither finished, waiting nor running; each resumes from its checkpoint.

    Raises:
        UserError: for an index that is unknown, live or finished, a key that is neither cluster.* nor code, or a run
            that cannot resume or that another user could have written; or if a cluster refuses.
    """
    chosen = _chosen(rows(folder), indices)
    if indices and (wrong := [row for row in chosen if row.is_live or row.state == "finished"]):
        raise UserError(f"index {wrong[0].index} is {wrong[0].state}: it cannot be resubmitted")
    todo = [row for row in chosen if not row.is_live and row.state != "finished"]
    if not todo:
        print("nothing to resubmit: every run is finished, waiting or running")
        return
    overrides = dict(text.split("=", 1) for text in given)
    code = overrides.pop("code", "same")
    if code not in ("same", "current"):
        raise UserError(f"code={code}: must be same or current")
    jobs = [_job(row, [f"{key}={value}" for key, value in overrides.items()]) for row in todo]
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.config.cluster._target_, []).append(job)
    for members in groups.values():
        cluster: Cluster = configs.build(members[0].config, "cluster")
        with _begun_again(members):
            cluster.resubmit(members, code)


@contextmanager
def _begun_again(jobs: Sequence[Job]) -> Iterator[None]:
    """Write the configurations and remove the records of the runs' ends; all changes are undone if the block fails."""
    files = [file for job in jobs for file in (job.files.config, job.files.summary)]
    before = {file: file.read_text() for file in files if file.exists()}
    try:
        for job in jobs:
            write_config(job.run_dir, job.config)
            remove_summary(job.run_dir)
        yield
    except BaseException:
        for file, text in before.items():
            write_atomically(file, text)
        raise


def _chosen(found: list[Row], indices: Sequence[int]) -> list[Row]:
    refuse_unknown_index(indices, [row.index for row in found])
    return [row for row in found if not indices or row.index in indices]


def _job(row: Row, overrides: Sequence[str]) -> Job:
    refuse_untrusted_run(row.run_dir)
    about, config = read_run(row.run_dir)
    add_code_path(config.code_path)
    for text in overrides:
        _apply(config, text)
    _check_cluster(config)
    cluster: Cluster = configs.build(config, "cluster")
    cluster.check()
    config.run_dir = str(row.run_dir)  # the folder may have been moved
    if config.sweep_dir:
        config.sweep_dir = str(row.run_dir.parent)
    processes = cluster.process_count()
    after = about.get("after", [])
    job = Job(about["module"], config, row.run_dir, row.index or 0, processes=processes, after=after)
    check_can_go_on(row.run_dir)
    return job


def _apply(config: DictConfig, text: str) -> None:
    try:
        override = OverridesParser.create().parse_override(text)
    except OverrideParseException as error:
        raise UserError(f"{text}: cannot be read") from error
    key = override.key_or_group
    if not key.startswith("cluster."):
        raise UserError(f"{key}: a resubmitted run keeps its settings; only cluster.* and code= may be given here")
    if OmegaConf.select(config, key, default=_MISSING) is _MISSING and not _is_entry(config, key):
        raise UserError(configs.unknown_key(key, flat_keys(config.cluster, "cluster.")))
    OmegaConf.update(config, key, override.value(), force_add=True)


_MISSING: Any = object()


def _is_entry(config: DictConfig, key: str) -> bool:
    """Return True if `key` names an entry of a dictionary with the user's own keys, for instance cluster.environment.NAME."""
    group, _, name = key.removeprefix("cluster.").partition(".")
    fields = configs.target_class(config, "cluster").__dataclass_fields__
    return bool(name) and group in fields and str(fields[group].type).startswith("dict")


def _check_cluster(config: DictConfig) -> None:
    target: Any = configs.target_class(config, "cluster")
    try:
        values = {key: value for key, value in config.cluster.items() if key != "_target_"}
        merged = OmegaConf.merge(OmegaConf.structured(target), values)
    except OmegaConfBaseException as error:
        raise UserError(f"cluster.{error.full_key}: {str(error).splitlines()[0]}") from error
    check_limits(target, merged, "cluster.")
    refuse_control_characters(merged, "cluster")
