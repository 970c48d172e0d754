"""Which kind of cluster runs are on, by their own configurations."""

import os
from collections.abc import Iterable
from pathlib import Path

from psychocounsel.cluster.base import Cluster
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import read_config, read_section
from psychocounsel.settings import config as configs
from psychocounsel.settings.code_path import add_code_path


def by_cluster(runs: Iterable[Path]) -> list[tuple[Cluster, list[Path]]]:
    """Each kind of cluster, with the settings of its first run, and its runs; a run without configuration is of none.

    Raises:
        UserError: if a kind of the user's own cannot be imported from the folders where it lay, or a run directory of
            another user names one: asking about a run must not execute a stranger's code.
    """
    groups: dict[str, list[Path]] = {}
    for run in runs:
        settings = read_section(run, "cluster")
        if settings:
            groups.setdefault(settings["_target_"], []).append(run)
    return [(_cluster_of(members[0]), members) for members in groups.values()]


def _cluster_of(run: Path) -> Cluster:
    config = read_config(run)
    if not str(config.cluster.get("_target_")).startswith("psychocounsel."):
        if RunDir(run).config.stat().st_uid != os.getuid():
            raise UserError(f"{run}: belongs to another user, and its cluster is code of theirs: ask its owner")
        add_code_path(config.code_path)
    cluster: Cluster = configs.build(config, "cluster")
    return cluster
