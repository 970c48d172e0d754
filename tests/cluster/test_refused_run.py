"""A refused run leaves no files behind, except answers that were paid for."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.cluster.job import Job
from psychocounsel.cluster.local import _remove_unstarted
from psychocounsel.remote.journal import Journal, request_key
from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.command import command_of


def refused(folder: Path) -> Job:
    files = RunDir(folder / "run")
    files.path.mkdir()
    files.config.write_text("{}")
    Journal(files.counterfactual_answers)  # the journal was opened, but has no answers
    (files.path / "speeches.parquet").write_text("read before the model was refused")
    return Job(command_of("psychocounsel.evaluate"), OmegaConf.create({}), files.path)


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    _remove_unstarted(refused(tmp_path / "a"))
    assert not list(tmp_path.iterdir())


def test_the_folder_in_which_the_user_stands_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _remove_unstarted(refused(tmp_path / "here"))
    assert not list((tmp_path / "here").iterdir())


def test_answers_that_were_paid_for_are_kept(tmp_path: Path) -> None:
    job = refused(tmp_path)
    key = request_key("/chat/completions", {})
    Journal(job.files.counterfactual_answers).add(key, {"choices": []})
    _remove_unstarted(job)
    assert key in Journal(job.files.counterfactual_answers)


@pytest.mark.parametrize("name", ["scores", "counterfactuals", "audit", "metrics"])
def test_results_are_kept(name: str, tmp_path: Path) -> None:
    job = refused(tmp_path)
    file: Path = getattr(job.files, name)
    file.write_text("{}\n")
    _remove_unstarted(job)
    assert file.exists()
