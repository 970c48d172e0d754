"""Tests of a read-only disk: the command prints one line and leaves no files."""

import os
import sys
from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR
from tests.support.read_only import run_read_only


@pytest.mark.parametrize(
    "given",
    [
        ["run_dir=FOLDER/new/run"],
        ["-m", "seed=1,2", "sweep_dir=FOLDER/sweep"],
        ["-m", "seed=range(1,45)", "sweep_dir=FOLDER/sweep"],
        ["paths.output=FOLDER"],
    ],
)
def test_training_to_a_read_only_disk_is_one_line(given: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "psychocounsel.train", "debug=fast", *given]
    done = run_read_only(command, disk, dict(os.environ))
    assert done.returncode == USER_ERROR, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: /") and line.endswith("Read-only file system")
    assert done.stdout == ""
    assert list(tmp_path.rglob("*")) == [disk]


@pytest.mark.slow
def test_a_read_only_cache_is_used_as_it_is(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    command = [sys.executable, "-m", "psychocounsel.train", "debug=fast", "max_steps=1", "data.limit=8", "eval.limit=4"]
    command += [f"run_dir={tmp_path / 'run'}", "paths.cache=FOLDER"]
    done = run_read_only(command, cache, dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert "cannot be written (Read-only file system)" in done.stderr
    assert list(cache.iterdir()) == []
