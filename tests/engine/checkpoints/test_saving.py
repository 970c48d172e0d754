"""Files written in the background equal files written in a pause; damage and full disks are noticed; no pickle is run."""

import os
import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.cluster.archive import archive
from psychocounsel.engine.checkpoints.engine_files import read_weights
from psychocounsel.engine.checkpoints.saving import Checkpoints
from psychocounsel.errors import Unwritable, UserError
from psychocounsel.export import main as export
from psychocounsel.rundir.manifest import complete_checkpoints, is_complete, weights_marks, write_manifest
from psychocounsel.storage.hashes import mark_of
from tests.support.checkpoints import Setting, build, learn
from tests.support.export_runs import content, copy_of
from tests.support.harness import world

pytestmark = pytest.mark.usefixtures("in_process_training", "own_environment")


def saved(folder: Path, *steps: int) -> Path:
    """Return a run directory with checkpoints of these steps."""
    stepper, checkpoints = build(Setting(0), world(), folder, "checkpoint.keep_last=9")
    for step in steps:
        learn(stepper)
        checkpoints.save(step, {})
    checkpoints.settle()
    return folder


def load(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the loop state that a run would resume with, and the messages to the user."""
    _, checkpoints = build(Setting(0), world(), folder)
    return checkpoints.load(), checkpoints.run.said


def flip(file: Path, place: int = -3) -> None:
    whole = bytearray(file.read_bytes())
    whole[place] ^= 4
    file.write_bytes(whole)


# -- writing in the background


@pytest.mark.parametrize("stage", [0, 2])
def test_a_checkpoint_holds_the_state_of_when_it_was_taken(stage: int, tmp_path: Path) -> None:
    found = {}
    for background in ("true", "false"):
        stepper, checkpoints = build(
            Setting(stage), world(), tmp_path / background, f"checkpoint.background={background}"
        )
        told = checkpoints.announce = Told()
        for step in (1, 2):  # the second save overwrites the host copy of the first
            learn(stepper)
            checkpoints.save(step, {"best": {}})
            assert told.events == [("written", each) for each in range(1, step + (background == "false"))]
            learn(stepper)  # the engine's state differs from the saved one from here on
            checkpoints.settle()
            assert told.events[-1] == ("written", step)
        found[background] = content(tmp_path / background)
    assert found["true"] == found["false"]
    assert any(name.startswith("checkpoints/step-000002/policy/optimizer") for name in found["true"])


class Told:
    """Records the announced checkpoints."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def __call__(self, event: str, step: int) -> None:
        if event == "checkpoint_written":
            self.events.append(("written", step))


def test_one_that_takes_long_is_made_whole_once_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is blocked here, so it is completed at the next save, not at the next step."""
    from threading import Event

    from psychocounsel.engine.checkpoints import saving

    stepper, checkpoints = build(Setting(0), world(), tmp_path)
    go = Event()
    checkpoints._thread.submit(go.wait)
    monkeypatch.setattr(saving, "_SOON", 0)
    checkpoints.save(1, {})
    checkpoints.settle(wait=False)
    assert not complete_checkpoints(tmp_path)
    go.set()
    learn(stepper)
    checkpoints.save(2, {})
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000001"]


def test_a_large_model_is_written_while_training_goes_on_and_is_there_before_later_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of writing is blocked here: neither the export nor the next checkpoint waits for it."""
    from threading import Event

    from psychocounsel.engine.checkpoints import saving

    stepper, checkpoints = build(Setting(0), world(), tmp_path)
    model, go, found = tmp_path / "model", Event(), dict[str, bool]()
    checkpoints.announce = lambda event, step: found.setdefault(event, (model / "weights").exists())
    monkeypatch.setattr(saving, "_SOON", 0)

    def fill(draft: Path) -> None:
        go.wait()
        draft.mkdir()
        (draft / "weights").write_text("best")

    checkpoints.export(model, fill, 8)
    checkpoints.settle(wait=False)
    learn(stepper)
    checkpoints.save(1, {})
    checkpoints.settle(wait=False)
    assert not model.exists() and not complete_checkpoints(tmp_path)
    go.set()
    checkpoints.settle()
    assert found == {"checkpoint_written": True, "checkpoint_renamed": True} and complete_checkpoints(tmp_path)
    with full_disk(2):
        checkpoints.export(model, fill, 8)
        with pytest.raises(Unwritable, match=r"model: cannot be written \(File too large"):
            checkpoints.settle()
    assert (model / "weights").read_text() == "best"


def test_minutes_are_counted_from_the_last_one(tmp_path: Path) -> None:
    _, checkpoints = build(Setting(0), world(), tmp_path, "checkpoint.minutes=10")
    assert not checkpoints.overdue()
    checkpoints._saved -= 601
    assert checkpoints.overdue()
    checkpoints.save(1, {})
    assert not checkpoints.overdue()
    checkpoints.settings.minutes = None
    checkpoints._saved -= 1e9
    assert not checkpoints.overdue()


# -- disks


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Limit the size of all files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_on(checkpoints: Checkpoints, step: int, size: int) -> None:
    """Save a checkpoint while files are limited to `size` bytes; a size of 0 applies after the tensors are written."""
    if not size:
        checkpoints.save(step, {})
        checkpoints._pending[0].writing.result()
    with full_disk(size):
        if size:
            checkpoints.save(step, {})
        checkpoints.settle()


@pytest.mark.parametrize("size", [50_000, 0])
def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(size: int, tmp_path: Path) -> None:
    _, checkpoints = build(Setting(0), world(), tmp_path, "checkpoint.keep_last=9")
    write_on(checkpoints, 1, 1 << 30)
    before = content(tmp_path)
    with pytest.raises(Unwritable) as error:
        write_on(checkpoints, 2, size)
    assert "step-000002: cannot be written (File too large); make room" in str(error.value)
    assert "\n" not in str(error.value)
    assert content(tmp_path) == before and not list(tmp_path.glob("checkpoints/.*"))
    write_on(checkpoints, 2, 1 << 30)
    assert len(complete_checkpoints(tmp_path)) == 2


# -- damage

FILES = ["policy/weights-00000.safetensors", "policy/optimizer-00000.safetensors", "policy/engine.json", "loop.json"]


def test_a_run_goes_on_from_the_newest_that_is_undamaged(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 1, 2)
    for name in FILES:
        copy = copy_of(run, tmp_path / name.replace("/", "-"))
        flip(copy / "checkpoints" / "step-000002" / name)
        loop, said = load(copy)
        assert loop is not None and loop["step"] == 1
        assert said == [f"checkpoint step-000002 is skipped: {name} differs from what was written"]
    flip(copy / "checkpoints" / "step-000001" / FILES[0], 5000)
    with pytest.raises(
        UserError, match="step-000002 and step-000001 changed after being written, and there is no other"
    ):
        load(copy)
    assert load(run) == ({"step": 2, "processes": 1}, [])


def test_after_a_damaged_one_the_next_is_kept(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 1, 3)
    flip(run / "checkpoints" / "step-000003" / FILES[0])
    _, checkpoints = build(Setting(0), world(), run)  # keep_last=1
    assert checkpoints.load() is not None
    checkpoints.save(2, {})
    checkpoints.settle()
    assert [path.name for path in (run / "checkpoints").iterdir() if path.is_dir()] == ["step-000002"]


def test_a_damaged_manifest_counts_as_none(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 1)
    manifest = run / "checkpoints" / "step-000001" / "manifest.json"
    whole = manifest.read_bytes()
    assert is_complete(manifest.parent)
    for place in range(0, len(whole), 7):
        if not whole[place : place + 1].isspace():
            flip(manifest, place)
            assert not is_complete(manifest.parent), place
            manifest.write_bytes(whole)


def test_export_and_archive_refuse_damage(policy_run: Path, tmp_path: Path) -> None:
    for number, name in enumerate((FILES[0], FILES[2])):
        run = copy_of(policy_run, tmp_path / f"run-{number}", "model")
        flip(run / "checkpoints" / "step-000003" / name)
        with pytest.raises(UserError, match=f"step-000003: is damaged: {name} differs from what was written"):
            export([str(run), "step=3", f"to={tmp_path / 'out'}"])
        with pytest.raises(UserError, match=f"step-000003: is damaged: {name} differs from what was written"):
            archive(run, tmp_path / "kept")
        assert not list(tmp_path.glob("*kept*")) and not (tmp_path / "out").exists()
    sound = copy_of(policy_run, tmp_path / "sound", "model")
    flip(sound / "checkpoints" / "step-000003" / FILES[1])
    archive(sound, tmp_path / "kept")  # the damaged part, optimizer state, is left out
    assert len(complete_checkpoints(tmp_path / "kept")) == 4


# -- pickles


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [*FILES, "policy/mp_rank_00_model_states.pt", "policy/weights.pt", "manifest.json"])
def test_no_pickle_runs(name: str, policy_run: Path, tmp_path: Path) -> None:
    """An attacker who plants a pickle can also write a matching manifest."""
    run = copy_of(policy_run, tmp_path / "run", "model")
    for folder in complete_checkpoints(run)[:-1]:
        shutil.rmtree(folder)
    (folder,) = complete_checkpoints(run)
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    if name != "manifest.json":
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
        write_manifest(folder, {path.relative_to(folder).as_posix(): mark_of(path) for path in files})
    for attempt in (
        lambda: export([str(run), "step=4", f"to={tmp_path / 'out'}"]),
        lambda: archive(run, tmp_path / "kept"),
        lambda: export([str(tmp_path / "kept"), "step=4", f"to={tmp_path / 'out-kept'}"]),
        lambda: read_weights(folder, "policy"),
        lambda: load(run),
    ):
        with suppress(UserError):
            attempt()
    assert not (tmp_path / "ran").exists()
    if name in (FILES[0], FILES[2]):
        with pytest.raises(UserError, match="policy cannot be read from this checkpoint"):
            read_weights(folder, "policy")
    assert weights_marks(folder) or name == "manifest.json"
