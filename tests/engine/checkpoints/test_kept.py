"""A complete checkpoint is never lost: not by damage, a kill during a rewrite, a long round or a user's mistake."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.rundir.manifest import complete_checkpoints, latest_checkpoint
from psychocounsel.rundir.paths import RunDir
from tests.engine.checkpoints.test_saving import FILES, flip, load, saved
from tests.support.checkpoints import Setting, build, learn
from tests.support.export_runs import content, copy_of
from tests.support.harness import ROOT, cli, world

pytestmark = pytest.mark.usefixtures("in_process_training", "own_environment")


# -- damage


def purge(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "flipped manifest": lambda folder: flip(folder / "manifest.json", 20),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "cut weights": lambda folder: (folder / FILES[0]).write_bytes((folder / FILES[0]).read_bytes()[:100]),
    "no optimizer state": lambda folder: (folder / FILES[1]).unlink(),
    "no files": purge,
}


def test_damage_to_the_only_checkpoint_is_refused(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 1)
    for name, damage in DAMAGE.items():
        copy = copy_of(run, tmp_path / name)
        damage(copy / "checkpoints" / "step-000001")
        before = content(copy)
        with pytest.raises(
            UserError, match="step-000001 changed .* and there is no other: restore the files, or delete"
        ):
            load(copy)
        assert content(copy) == before


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 1, 2, 3)
    DAMAGE["no optimizer state"](run / "checkpoints" / "step-000003")
    DAMAGE["flipped manifest"](run / "checkpoints" / "step-000002")
    loop, said = load(run)
    assert loop is not None and loop["step"] == 1
    assert said == [
        "checkpoint step-000003 is skipped: files are missing, added or of another size",
        "checkpoint step-000002 is skipped: manifest.json is missing, damaged, or written by another version of the program",
    ]


# -- the same step again


def test_the_same_state_is_not_written_again(tmp_path: Path) -> None:
    _, checkpoints = build(Setting(0), world(), tmp_path)
    folder = RunDir(tmp_path).checkpoint(1).path

    def save(round_number: int) -> int:
        checkpoints.save(1, {"round": round_number})
        checkpoints.settle()
        assert complete_checkpoints(tmp_path) == [folder]
        return folder.stat().st_ino

    first = save(1)
    assert save(1) == first
    assert save(2) != first
    DAMAGE["flipped manifest"](folder)
    save(2)


def test_a_kill_amid_a_rewrite_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed before each renaming or deletion of a folder in turn."""
    rounds = []
    for number in range(1, 20):
        run = saved(tmp_path / str(number), 1)
        stepper, checkpoints = build(Setting(0), world(), run)
        learn(stepper)
        with monkeypatch.context() as patch:
            die_before(number, patch)
            try:
                checkpoints.save(1, {"round": 1})
                checkpoints.settle()
                killed = False
            except KeyboardInterrupt:
                killed = True
        loop, _ = load(run)
        assert loop is not None and loop["step"] == 1
        rounds.append(loop.get("round", 0))
        if not killed:
            break
    assert number > 3 and sorted(rounds) == rounds and {*rounds} == {0, 1}
    checkpoints.save(2, {})
    checkpoints.settle()
    assert not RunDir(run).checkpoint_leftovers()


def die_before(number: int, patch: pytest.MonkeyPatch) -> None:
    """Kill the process before its `number`-th renaming or deletion of a folder."""
    left = [number]

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return work(*given, **more)

        return instead

    patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    patch.setattr(Path, "rename", counted(Path.rename))


# -- other folders


def test_folders_of_the_user_are_left_alone(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 1)
    folder = run / "checkpoints"
    others = {"step-000001.bak", "step-best", "step-7", "mine"}
    for name in others:
        shutil.copytree(folder / "step-000001", folder / name)
    (folder / ".step-000009.tmp").mkdir()
    _, checkpoints = build(Setting(0), world(), run)  # keep_last=1
    assert checkpoints.load() == {"step": 1, "processes": 1}
    checkpoints.save(2, {})
    checkpoints.settle()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == others | {"step-000002"}


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 999_999, 1_000_000)
    assert [path.name for path in complete_checkpoints(run)] == ["step-999999", "step-1000000"]
    loop, _ = load(run)
    assert loop is not None and loop["step"] == 1_000_000


# -- completion of a checkpoint

SHORT = ["data.limit=40", "eval.limit=2", "max_steps=3", "global_batch_size=4", "eval.every=0", "cluster.threads=1"]


@pytest.mark.slow
def test_a_checkpoint_is_whole_before_the_round_after_it_is_written(small_model: Path, tmp_path: Path) -> None:
    online = ["algo=online_dpo", "reward=tiny", "algo.prompts_per_round=4", "algo.samples=2", "rollout.max_tokens=4"]
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: shard_done, step: 2}"
    run = ["train", f"run_dir={tmp_path / 'run'}", f"model.path={small_model}", *SHORT, *online, "checkpoint.every=1"]
    cli(*run, kill, cwd=ROOT, check_code=137)
    newest = latest_checkpoint(tmp_path / "run")
    assert newest is not None and newest.name == "step-000002"


@pytest.mark.slow
def test_a_mistake_of_the_user_keeps_the_step_before_it(small_model: Path, tmp_path: Path) -> None:
    mistake = "+callbacks.mistake={_target_: tests.support.killer.Mistake, step: 2}"
    run = ["train", f"run_dir={tmp_path / 'run'}", f"model.path={small_model}", *SHORT, "checkpoint.every=2"]
    cli(*run, mistake, cwd=ROOT, check_code=USER_ERROR)
    newest = latest_checkpoint(tmp_path / "run")
    assert newest is not None and newest.name == "step-000002"
