"""`jobs cancel`, `jobs resubmit` and `jobs forget`: end runs, submit unfinished ones again, remove runs without results."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from psychocounsel.cluster.base import Cluster
from psychocounsel.cluster.job import Job, made_nothing
from psychocounsel.cluster.slurm.code_copies import remove_unused, store_of
from psychocounsel.cluster.starting import by_cluster
from psychocounsel.cluster.states import Row, refuse_unknown_index, rows, rows_of
from psychocounsel.errors import UserError
from psychocounsel.rundir.manifest import check_can_go_on
from psychocounsel.rundir.paths import RunDir, SubmissionHome, cell_record
from psychocounsel.rundir.run_config import is_run, read_run, read_section, write_config
from psychocounsel.rundir.submissions import home_of
from psychocounsel.rundir.sweep import is_sweep, remove_from_table, shards_of
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import command_of
from psychocounsel.settings.keys import refuse_control_characters
from psychocounsel.settings.overrides import typed_override
from psychocounsel.settings.own_code import SUBMITS, agree_to_own, require_agreement
from psychocounsel.settings.paths import make_cluster_absolute
from psychocounsel.settings.schema import flat_keys
from psychocounsel.settings.targets import add_code_path
from psychocounsel.storage.files import with_noun, write_atomically


def cancel(folder: Path, indices: Sequence[int]) -> None:
    """Ask the clusters to cancel the runs that wait or run, with their shards.

    Raises:
        UserError: if an index is unknown, or a cluster refuses.
    """
    chosen = _chosen(rows(folder, acts=True), indices)
    end([*chosen, *rows_of(shards_of(row.run_dir for row in chosen), acts=True)])


def end(chosen: Sequence[Row]) -> None:
    """Ask the clusters to cancel the waiting and running ones of these runs. Raises UserError if a cluster refuses."""
    live = [row.run_dir for row in chosen if row.is_live]
    for cluster, runs in by_cluster(live, acts=True):
        cluster.cancel(runs)
    print(f"cancelled {with_noun(len(live), 'run')}" if live else "nothing waits or runs")


def resubmit(folder: Path, indices: Sequence[int], given: Sequence[str]) -> None:
    """Submit again every run that is neither finished, waiting nor running, after its shards; each resumes.

    Raises:
        UserError: for an index that is unknown, live or finished, a key that is neither cluster.* nor code, or a run
            that cannot resume or that another user could have written; or if a cluster refuses.
    """
    overrides = [_override(text) for text in given]
    keys = [override.key_or_group for override in overrides]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(f"{twice}: is given twice")
    code = next((str(override.value()) for override in overrides if override.key_or_group == "code"), "same")
    if code not in ("same", "current"):
        raise UserError(f"code={code}: must be same or current")
    chosen = _chosen(rows(folder, acts=True), indices)
    if indices and (wrong := [row for row in chosen if row.is_live or row.state == "finished"]):
        raise UserError(f"index {wrong[0].index} is {wrong[0].state}: it cannot be resubmitted")
    todo = _unfinished(chosen)
    if not todo:
        print("nothing to resubmit: every run is finished, waiting or running")
        return
    todo = [*_unfinished(rows_of(shards_of(row.run_dir for row in todo), acts=True)), *todo]
    jobs = [_job(row, [override for override in overrides if override.key_or_group != "code"]) for row in todo]
    by_run = {str(job.run_dir): job for job in jobs}
    waiting = TopologicalSorter({run: [other for other in job.after if other in by_run] for run, job in by_run.items()})
    waiting.prepare()
    while ready := waiting.get_ready():  # a job's dependency names the queued jobs that it waits for
        groups: dict[tuple[str, Path], list[Job]] = {}
        for job in map(by_run.__getitem__, ready):
            groups.setdefault((job.config.cluster._target_, home_of(job.run_dir)), []).append(job)
        for members in groups.values():
            cluster: Cluster = configs.build(members[0].config, "cluster")
            with _begun_again(members):
                cluster.resubmit(members, code)
        waiting.done(*ready)


def _unfinished(chosen: Sequence[Row]) -> list[Row]:
    return [row for row in chosen if not row.is_live and row.state != "finished"]


@contextmanager
def _begun_again(jobs: Sequence[Job]) -> Iterator[None]:
    """Write the configurations and remove the records of the runs' ends; all changes are undone if the block fails."""
    files = [file for job in jobs for file in (job.files.config, job.files.summary)]
    before = {file: file.read_text() for file in files if file.exists()}
    try:
        for job in jobs:
            write_config(job.run_dir, job.config)
            agree_to_own(job.run_dir)
            job.files.summary.unlink(missing_ok=True)  # no longer true
        yield
    except BaseException:
        for file, text in before.items():
            write_atomically(file, text)
        raise


def _chosen(all_rows: list[Row], indices: Sequence[int]) -> list[Row]:
    refuse_unknown_index(indices, [row.index for row in all_rows])
    return [row for row in all_rows if not indices or row.index in indices]


def _job(row: Row, overrides: Sequence[Override]) -> Job:
    refuse_untrusted_run(row.run_dir)
    require_agreement(row.run_dir, SUBMITS)
    about, config = read_run(row.run_dir)
    add_code_path(config.code_path)
    for override in overrides:
        _apply(config, override)
    typed = configs.typed_groups(OmegaConf.create({"cluster": config.cluster}))
    refuse_control_characters(typed.cluster, "cluster")
    make_cluster_absolute(config)
    cluster: Cluster = configs.build(config, "cluster")
    cluster.check()
    config.run_dir = str(row.run_dir)  # the folder may have been moved
    if config.sweep_dir:
        config.sweep_dir = str(row.run_dir.parent)
    processes = cluster.process_count()
    after = about.get("after", [])
    job = Job(command_of(about["module"]), config, row.run_dir, row.index or 0, processes=processes, after=after)
    check_can_go_on(row.run_dir)
    return job


def _override(text: str) -> Override:
    override = typed_override(text)
    key = override.key_or_group
    if not key.startswith("cluster.") and key != "code":
        raise UserError(f"{key}: a resubmitted run keeps its settings; only cluster.* and code= may be given here")
    if key == "cluster.wait":
        raise UserError("cluster.wait: resubmit does not wait; `psychocounsel jobs status DIR --watch` does")
    return override


def _apply(config: DictConfig, override: Override) -> None:
    key = override.key_or_group
    # Runs of earlier versions lack keys that their cluster has now.
    known = key.removeprefix("cluster.") in configs.target_class(config, "cluster").__dataclass_fields__
    if not known and OmegaConf.select(config, key, default=_MISSING) is _MISSING and not _is_of_dictionary(config, key):
        raise UserError(configs.unknown_key(key, flat_keys(config.cluster, "cluster.")))
    OmegaConf.update(config, key, override.value(), force_add=True, merge=not _is_of_dictionary(config, key))


_MISSING: Any = object()


def _is_of_dictionary(config: DictConfig, key: str) -> bool:
    """Return True if `key` names a dictionary with the user's own keys, such as cluster.environment, or an entry of it."""
    group = key.removeprefix("cluster.").partition(".")[0]
    fields = configs.target_class(config, "cluster").__dataclass_fields__
    return group in fields and str(fields[group].type).startswith("dict")


# `jobs forget`

_FILES, _HOME = RunDir(Path()), SubmissionHome(Path())
_OWN = {  # files that a run directory without results may contain
    path.name
    for path in (
        *(_FILES.config, _FILES.job, _FILES.overrides, _FILES.code, _FILES.state, _FILES.environment, _FILES.summary),
        *(_FILES.logs, _FILES.failure, _FILES.profile, _FILES.tensorboard, _FILES.wandb, _FILES.owner, _FILES.stop),
        *(
            _FILES.servers,
            _FILES.checkpoints,
            _FILES.rounds,
            *_FILES.journals,
            _HOME.submissions,
            _HOME.lock,
            _HOME.code,
        ),
        cell_record(Path()),
    )
}


def forget(folder: Path, indices: Sequence[int]) -> None:
    """Remove the directories of runs in `folder`, and their lines in the table of their sweep.

    Without `indices`, `folder` must be a single run.

    Raises:
        UserError: if a run waits, runs, has a result or foreign files, or belongs to another user; or if an index is
            unknown.
    """
    all_rows = rows(folder, acts=True)
    if not indices and is_sweep(folder):
        raise UserError(
            f"jobs forget {folder}: contains {with_noun(len(all_rows), 'run')}; name the runs to forget by their indices"
        )
    chosen = _chosen(all_rows, indices)
    for row in chosen:
        _refuse(row, folder)
    stores = {_copies_of(row.run_dir) for row in chosen}
    for row in chosen:
        shutil.rmtree(row.run_dir)
    sweep = folder if is_sweep(folder) else folder.parent
    if is_sweep(sweep):
        remove_from_table(sweep, [row.run_dir for row in chosen])
    for store in stores:
        remove_unused(store)
    print(f"forgot {', '.join(str(row.run_dir) for row in chosen)}")


def _copies_of(run_dir: Path) -> Path:
    """Return the folder that holds the copies of code of the run's submissions; it may not exist."""
    paths = read_section(run_dir, "paths") or {}
    return store_of(home_of(run_dir), Path(paths.get("output") or run_dir))


def _refuse(row: Row, folder: Path) -> None:
    """Refuse a run that must not be removed. The sweep's table may be someone else's file and name any folder."""
    path = row.run_dir.resolve()
    if not is_run(path) or not path.is_relative_to(folder.resolve()):
        raise UserError(f"{row.run_dir}: is not a run in {folder}; nothing was removed")
    refuse_untrusted_run(row.run_dir)
    if row.is_live:
        raise UserError(f"{row.run_dir}: is {row.state}; `psychocounsel jobs cancel` ends it first")
    if not made_nothing(row.run_dir):
        raise UserError(
            f"{row.run_dir}: has results (it reached step {row.step}); only runs without results can be forgotten. Use another "
            "run_dir, or remove the folder yourself"
        )
    if foreign := sorted(child.name for child in path.iterdir() if child.name not in _OWN):
        raise UserError(f"{row.run_dir}: contains {foreign[0]}, which no run writes; move it away first")
