"""The kinds of cluster of given runs, read from the runs' configurations."""

from collections.abc import Iterable
from pathlib import Path

from psychocounsel.cluster.base import Cluster
from psychocounsel.rundir.run_config import read_config, read_section
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings import config as configs
from psychocounsel.settings.code_path import add_code_path


def by_cluster(runs: Iterable[Path]) -> list[tuple[Cluster, list[Path]]]:
    """Return a cluster for each kind that `runs` name, with its runs; a run without configuration is skipped.

    A cluster has the settings of the first of its runs.

    Raises:
        UserError: if the user's own kind cannot be imported from its original folders, or a run directory of
            another user names one, because a query about a run must not execute a stranger's code.
    """
    groups: dict[str, list[Path]] = {}
    for run in runs:
        settings = read_section(run, "cluster")
        if isinstance(settings, dict) and settings.get("_target_"):
            groups.setdefault(settings["_target_"], []).append(run)
    return [(_cluster_of(members[0]), members) for members in groups.values()]


def _cluster_of(run: Path) -> Cluster:
    config = read_config(run)
    if not str(config.cluster.get("_target_")).startswith("psychocounsel."):
        refuse_untrusted_run(run, whole=False)
        add_code_path(config.code_path)
    cluster: Cluster = configs.build(config, "cluster")
    return cluster
