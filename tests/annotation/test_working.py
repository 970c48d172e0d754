"""Only one process works in a dataset: shards and the whole refuse each other, and a removal refuses both."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from psychocounsel.annotation.working import annotate
from psychocounsel.cluster.job import Job
from psychocounsel.cluster.slurm import sharing
from psychocounsel.errors import UserError
from psychocounsel.rundir.owner import ownership
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.rundir.run import Run
from psychocounsel.settings.command import command_of
from psychocounsel.settings.config import build
from psychocounsel.storage.files import write_json
from tests.support.composed import check, compose


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnnotationDir:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)  # inside a job, they would wait instead of refusing
    found = AnnotationDir(tmp_path / "out")
    found.shard(1).path.mkdir(parents=True)
    found.steps.mkdir()
    return found


def configured(files: AnnotationDir, *more: str, share: int | None = None) -> DictConfig:
    config = check(compose([f"out={files.path}", f"paths.cache={files.path.parent}", "shards=2", *more], "annotate"))
    config.share = share
    return config


def work(config: DictConfig, run_dir: Path) -> int:
    with Run.open(run_dir, config) as run:
        return annotate(run)


@pytest.mark.parametrize("removal", [False, True])
def test_nothing_works_beside_a_live_shard(files: AnnotationDir, removal: bool) -> None:
    (files.path.parent / "ids.txt").write_text("0" * 16)
    config = configured(files, *([f"remove={files.path.parent}/ids.txt"] if removal else []))
    with ownership(files.shard(1).path):
        for begin in (
            lambda: build(config, "cluster").select([Job(command_of("psychocounsel.annotate"), config, files.path)]),
            lambda: work(config, files.path),
            lambda: work(config, files.shards / "speeches"),
        ):
            with pytest.raises(UserError, match=r"shards/001 is in use by process"):
                begin()
    assert not list(files.path.glob("*.parquet")) and not list(files.steps.iterdir())


def test_a_shard_does_not_begin_beside_the_whole(files: AnnotationDir) -> None:
    with ownership(files.path), pytest.raises(UserError, match=r"out is in use by process"):
        work(configured(files, share=1), files.shard(1).path)


def test_an_unfinished_removal_binds_the_shards(files: AnnotationDir) -> None:
    write_json(files.step("removal"), {"done": False})
    with pytest.raises(UserError, match="a removal of speeches is unfinished"):
        work(configured(files, share=1), files.shard(1).path)
    with pytest.raises(UserError, match="a removal of speeches is unfinished"):
        sharing.in_parts([Job(command_of("psychocounsel.annotate"), configured(files), files.path)])
