"""Code and weights of a directory that another user could have written are refused, unless it is trusted explicitly."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from psychocounsel.cluster import rank
from psychocounsel.cluster.archive import archive
from psychocounsel.cluster.job import make_job
from psychocounsel.cluster.resubmission import resubmit
from psychocounsel.cluster.slurm import code_copies, server_node
from psychocounsel.errors import UserError
from psychocounsel.export import main as export
from psychocounsel.rundir.manifest import complete_checkpoints
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings.command import command_of
from tests.support.composed import check, compose
from tests.support.contests import contest
from tests.support.trained import trained_run

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user"),
    pytest.mark.usefixtures("own_environment"),
]
STRANGER = 12345


@pytest.fixture(scope="module")
def made_by_a_group(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one step made with a umask that lets a group write everything, as on clusters with shared groups."""
    run = tmp_path_factory.mktemp("group") / "run"
    given = [f"model.path={small_model}", "max_steps=1", "global_batch_size=4", "data.limit=8", "eval.every=0"]
    command = [sys.executable, "-m", "psychocounsel.train", *given, "eval.limit=2", f"run_dir={run}"]
    done = subprocess.run(
        ["sh", "-c", 'umask 0002; touch "$0"; exec "$@"', str(run.parent / "made-under-it"), *command],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def run(made_by_a_group: Path, tmp_path: Path) -> Path:
    """Return a copy of the run without its summary, so that it is not finished."""
    copy = tmp_path / "run"
    shutil.copytree(made_by_a_group, copy)
    (copy / "summary.json").unlink()
    return copy


@pytest.mark.slow
def test_what_a_run_loads_is_for_its_user_alone_to_write_whatever_the_umask(made_by_a_group: Path) -> None:
    assert (made_by_a_group.parent / "made-under-it").stat().st_mode & 0o020, "otherwise the umask was different"
    refuse_untrusted_run(made_by_a_group)
    assert not [path for path in made_by_a_group.rglob("*") if path.lstat().st_mode & 0o022 and not path.is_symlink()]


def resume(run: Path) -> None:
    make_job(command_of("psychocounsel.train"), check(compose([f"run_dir={run}"])), [])


def reward(run: Path) -> None:
    check(compose([f"reward.path={run}/model"], "evaluate"))


def train_on(run: Path) -> None:
    check(compose([f"model.path={run}/model"]))


def ask(run: Path) -> None:
    contest("evaluation=health", "against=null", f"model.path={run}")


def be_judged_by(run: Path) -> None:
    contest("evaluation=safety", "against=null", "model.path=builtin:tiny", "judge=transformers", f"judge.model={run}")


COMMANDS: dict[str, Callable[[Path], object]] = {
    "train": resume,
    "worker": rank._work,
    "servers": server_node.run,
    "export": lambda run: export([str(run)]),
    "archive": lambda run: archive(run, run.parent / "kept"),
    "resubmit": lambda run: resubmit(run, [], []),
    "reward": reward,
    "train on": train_on,
    "ask": ask,
    "be judged by": be_judged_by,
}
CODE = ("train", "worker", "servers", "export", "archive", "resubmit")


def of_a_checkpoint(run: Path) -> Path:
    return next(path for path in complete_checkpoints(run)[-1].rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_what_another_user_could_have_written_is_refused(command: str, run: Path) -> None:
    places = [run]
    if command in CODE:
        places += [run / "config.yaml", run / "job.json"]
    if command in CODE and command != "servers":
        places.append(of_a_checkpoint(run))
    if command not in CODE:
        places += [run / "model", run / "model" / "model.safetensors"]
    before = {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()}
    for place in places:
        mode = place.stat().st_mode
        os.chown(place, STRANGER, -1)
        with pytest.raises(UserError, match=f"^{place}: belongs to another user .*PSYCHOCOUNSEL_TRUST={run} before"):
            COMMANDS[command](run)
        os.chown(place, 0, -1)
        for bit, who in ((0o020, "its group"), (0o002, "everyone")):
            place.chmod(mode | bit)
            with pytest.raises(UserError, match=f"^{place}: can be written by {who}.*`chmod -R go-w {run}`"):
                COMMANDS[command](run)
        place.chmod(mode)
    assert {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()} == before


def test_who_says_so_trusts_a_folder_and_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained_run(tmp_path / "run")
    (run / "model" / "psychocounsel.json").write_text('{"step": 1}')
    os.chown(run / "config.yaml", STRANGER, -1)
    monkeypatch.setenv("PSYCHOCOUNSEL_TRUST", f"/elsewhere:{run}s")
    with pytest.raises(UserError, match="belongs to another user"):
        refuse_untrusted_run(run)
    monkeypatch.setenv("PSYCHOCOUNSEL_TRUST", f"/elsewhere:{run.parent}")
    export([str(run)])
    assert (run / "export" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_copy_of_the_code_that_lay_there_is_used_if_nobody_else_could_write_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text("x = 1\n")
    (tmp_path / "mine" / "own.py").chmod(0o666)

    def take() -> list[Path]:
        return code_copies.take(tmp_path / "run", [str(tmp_path / "mine")], ["own.Algo"], 200)

    package, copy = take()
    assert (copy / "own.py").stat().st_mode & 0o777 == 0o644
    assert take() == [package, copy]
    os.chown(copy / "own.py", STRANGER, -1)
    with pytest.raises(UserError, match=f"^{copy / 'own.py'}: belongs to another user"):
        take()
