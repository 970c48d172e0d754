"""A refused run leaves no files behind, except answers that were paid for."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.cluster.base import NoAnswer, QueueState
from psychocounsel.cluster.job import Job, make_job, write_run_directory
from psychocounsel.cluster.local import _remove_unstarted
from psychocounsel.cluster.slurm.cluster import Slurm
from psychocounsel.cluster.starting import _refuse_live_elsewhere, _removed_on_failure
from psychocounsel.errors import UserError
from psychocounsel.remote.journal import Journal, request_key
from psychocounsel.rundir.paths import RunDir, SubmissionHome
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.sweep import add_to_table, runs_of
from psychocounsel.settings.command import command_of
from psychocounsel.storage.locks import held
from psychocounsel.train import COMMAND as TRAIN
from tests.support.composed import check, compose


def refused(folder: Path) -> Job:
    files = RunDir(folder / "run")
    files.path.mkdir()
    files.config.write_text("{}")
    Journal(files.ranker_answers)  # the journal was opened, but has no answers
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


@pytest.mark.parametrize("journal", [path.name for path in RunDir(Path()).journals])
def test_answers_that_were_paid_for_are_kept(journal: str, tmp_path: Path) -> None:
    job = refused(tmp_path)
    key = request_key("/chat/completions", {})
    Journal(job.run_dir / journal).add(key, {"choices": []})
    _remove_unstarted(job)
    assert Journal(job.run_dir / journal).get(key)


@pytest.mark.parametrize("name", ["scores", "audit", "metrics"])
def test_results_are_kept(name: str, tmp_path: Path) -> None:
    job = refused(tmp_path)
    file: Path = getattr(job.files, name)
    file.write_text("{}\n")
    _remove_unstarted(job)
    assert file.exists()


def failed_in(sweep: Path, error: BaseException, *others: str) -> Path:
    """Return the run of a command that fails after it and others have listed their runs in a new sweep."""
    mine = sweep / "mine"
    with (
        pytest.raises(type(error)),
        _removed_on_failure([Job(TRAIN, OmegaConf.create({"sweep_dir": str(sweep)}), mine)]),
    ):
        _list_and_raise([sweep / name for name in (*others, "mine")], error)
    return mine


def _list_and_raise(runs: list[Path], error: BaseException) -> None:
    for run in runs:
        run.mkdir(parents=True)
        RunDir(run).config.write_text("{}")
        add_to_table(run.parent, [(run, [])])
    raise error


def test_a_command_that_fails_leaves_the_runs_that_another_has_begun_in_its_sweep(tmp_path: Path) -> None:
    mine = failed_in(tmp_path / "sweep", UserError("refused by SLURM"), "other")
    assert [run.run_dir.name for run in runs_of(mine.parent)] == ["other"] and not mine.exists()
    assert (mine.parent / "other" / "config.yaml").exists()
    assert not failed_in(tmp_path / "alone", UserError("refused by SLURM")).parent.exists()


def test_a_command_that_fails_keeps_what_its_new_sweep_folder_held(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("")
    failed_in(tmp_path, UserError("refused by SLURM"))
    assert [path.name for path in tmp_path.rglob("*")] == ["study", "study.yaml"], "no table makes it a sweep"


def test_a_command_that_is_stopped_while_another_submits_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    with held(SubmissionHome(tmp_path / "sweep").lock):
        mine = failed_in(tmp_path / "sweep", KeyboardInterrupt())
    assert mine.exists() and len(runs_of(mine.parent)) == 1


def test_a_run_that_another_command_makes_in_the_meantime_keeps_its_settings(tmp_path: Path) -> None:
    """Both commands found an empty directory; the later one must not write its settings over the first one's."""
    first, second = (
        make_job(command_of("psychocounsel.train"), check(compose([f"run_dir={tmp_path / 'run'}", f"seed={seed}"])), [])
        for seed in (1, 2)
    )
    write_run_directory(first)
    with pytest.raises(UserError, match="another command has just made this run; repeat this command"):
        write_run_directory(second)
    assert read_config(tmp_path / "run").seed == 1
    write_run_directory(first)  # a second attempt of the same command


def test_a_run_whose_job_waits_elsewhere_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"run_dir={tmp_path / 'run'}"]
    waiting = make_job(TRAIN, check(compose([*given, "cluster=slurm"])), [])
    write_run_directory(waiting)
    job = make_job(TRAIN, check(compose(given)), [])
    states = {waiting.run_dir: QueueState("101", "waiting")}
    monkeypatch.setattr(Slurm, "queue_states", lambda self, runs: states)
    with pytest.raises(UserError, match="its job waits or runs elsewhere: `psychocounsel jobs cancel"):
        _refuse_live_elsewhere([job])
    states[waiting.run_dir] = QueueState("101", "ended")
    _refuse_live_elsewhere([job])

    def silent(self: Slurm, runs: object) -> None:
        raise NoAnswer("squeue does not answer")

    monkeypatch.setattr(Slurm, "queue_states", silent)
    _refuse_live_elsewhere([job])
