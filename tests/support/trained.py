"""A finished training run on disk, without a training: its settings, and the shipped weights as its model."""

import shutil
from pathlib import Path

from psychocounsel.rundir.run_config import write_config, write_job
from tests.support.composed import check, compose
from tests.support.harness import TINY


def trained_run(folder: Path, *overrides: str, weights: Path = TINY) -> Path:
    """Write the directory of a training with these overrides; its model is a copy of `weights`."""
    shutil.copytree(weights, folder / "model")
    write_config(folder, check(compose([*overrides], "train")))
    write_job(folder, "psychocounsel.train", 0, [])
    return folder
