"""Tests of `environment.json`: each attempt writes its versions, and a failed attempt keeps the training's fingerprints."""

from pathlib import Path

import torch

from psychocounsel.rundir.run import Run, read_environment
from psychocounsel.storage.files import read_json
from tests.support.composed import check, compose


def test_an_attempt_that_ends_early_keeps_what_an_earlier_one_found(tmp_path: Path) -> None:
    config = check(compose([]))
    with Run.open(tmp_path, config) as run:
        run.begin_environment()
        begun = read_environment(tmp_path)
        assert begun["versions"]["torch"] == torch.__version__ and "gpus" not in begun
        run.write_environment(["node-1", "node-2"], ["H100"], 4, data="25cc", weights="sha256:995b")
    with Run.open(tmp_path, config) as run:
        run.attempt = 2
        run.begin_environment()
    found = read_environment(tmp_path)
    assert (found["attempt"], found["data"], found["weights"], found["gpus"]) == (2, "25cc", "sha256:995b", ["H100"])


def test_a_damaged_one_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"attempt": 1, "vers')
    with Run.open(tmp_path, check(compose([]))) as run:
        run.begin_environment()
    assert read_json(tmp_path / "environment.json")["attempt"] == 1
