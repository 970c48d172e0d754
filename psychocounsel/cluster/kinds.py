"""Which kind of cluster runs are on, by their own configurations."""

from collections.abc import Iterable
from pathlib import Path

from psychocounsel.cluster.base import Cluster
from psychocounsel.rundir.run_config import read_config, read_section
from psychocounsel.settings import config as configs
from psychocounsel.settings.code_path import add_code_path


def by_cluster(runs: Iterable[Path]) -> list[tuple[Cluster, list[Path]]]:
    """Each kind of cluster, with the settings of its first run, and its runs; a run without configuration is of none.

    Raises:
        UserError: if a kind of the user's own cannot be imported from the folders where it lay.
    """
    groups: dict[str, list[Path]] = {}
    for run in runs:
        settings = read_section(run, "cluster")
        if settings:
            groups.setdefault(settings["_target_"], []).append(run)
    return [(_cluster_of(members[0]), members) for members in groups.values()]


def _cluster_of(run: Path) -> Cluster:
    config = read_config(run)
    add_code_path(config.code_path)
    cluster: Cluster = configs.build(config, "cluster")
    return cluster
