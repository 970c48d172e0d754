"""A search on a real SLURM: its trials are tasks of one array, which get their values when they start."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.rundir.results import read_summary
from psychocounsel.storage.files import read_json
from tests.support.slurm_cluster import Cluster, start


@pytest.fixture(scope="module")
def slurm(small_model: Path) -> Iterator[Cluster]:
    yield from start(small_model)


def betas(search: Path) -> dict[str, float]:
    """Return the value of beta that each trial was given, by folder name."""
    runs = sorted(search.glob("trial-*"))
    return {run.name: OmegaConf.load(run / "config.yaml").settled["algo.beta"].value for run in runs}


@pytest.mark.slow
def test_trials_are_jobs_and_more_of_them_join_the_search(slurm: Cluster, tmp_path: Path) -> None:
    search = tmp_path / "search"
    line = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.pruner=none", "algo.beta=tag(log,interval(0.01,1))"]
    line += ["checkpoint.metric=eval/accuracy", *slurm.overrides(2, sweep_dir=search)]
    first = slurm.train(*line, "hydra.sweeper.trials=2")
    assert (
        re.search(r"submitted array of 2 as job \d+: 2 runs", first.stdout) and "no trial has started" in first.stdout
    )
    assert slurm.ended(search) == ["finished"] * 2
    drawn = betas(search)
    assert len({*drawn.values()}) == 2 and all(0.01 <= value <= 1 for value in drawn.values())
    slurm.train(*line, "hydra.sweeper.trials=3")
    assert slurm.ended(search) == ["finished"] * 3
    assert {name: value for name, value in betas(search).items() if name in drawn} == drawn
    said = slurm.train(*line, "hydra.sweeper.trials=3").stdout
    assert "submitted array" not in said and "not submitted: 3 finished" in said
    ranked = read_json(search / "best.json")
    accuracies = {run.name: read_summary(run)["metrics"]["best"]["eval/accuracy"] for run in search.glob("trial-*")}
    assert ranked["chosen"]["value"] == accuracies[ranked["chosen"]["run"]] == max(accuracies.values())
    assert (search / "best").resolve() == search / ranked["chosen"]["run"]
