"""Ranks that temporarily see different files, as on a shared file system, follow rank 0's view."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from psychocounsel.data.group import Completion, Group
from psychocounsel.distributed.world import World
from psychocounsel.engine.loop import StopRequest
from psychocounsel.engine.products import shared_kept_model
from psychocounsel.engine.rounds.held_out import held_out_metrics
from psychocounsel.rundir.paths import ModelDir, RunDir
from psychocounsel.storage.files import await_file, write_json
from tests.support.checkpoints import Setting, build, learn
from tests.support.harness import random_groups
from tests.support.ranks import in_ranks


def load_in_two_views(here: World, run: Path, stale: Path) -> list[Any]:
    """Return the loop that each rank resumes with, if rank 1 does not see the last checkpoint's manifest."""
    stepper, checkpoints = build(Setting(1, 2), here, run)
    for step in (1, 2):
        learn(stepper)
        checkpoints.save(step, {"note": f"of step {step}"})
        checkpoints.settle()
    if here.rank == 0:
        shutil.copytree(run, stale)
        RunDir(stale).checkpoint(2).manifest.unlink()
        write_json(RunDir(stale).checkpoint(2).loop, {"note": "of earlier"})
    here.barrier()
    _, mine = build(Setting(1, 2), here, stale if here.rank else run)
    return here.gather(mine.load())


@pytest.mark.slow
def test_all_ranks_go_on_from_the_checkpoint_that_rank_0_sees(tmp_path: Path) -> None:
    first, second = in_ranks(2, load_in_two_views, tmp_path / "run", tmp_path / "stale")
    assert first["note"] == "of step 2" and first == second


def kept_in_two_views(here: World, run: Path, stale: Path) -> list[Any]:
    return here.gather(shared_kept_model(RunDir(stale if here.rank else run).model, here))


def test_all_ranks_know_of_the_model_that_rank_0_sees(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.model.mkdir(parents=True)
    write_json(ModelDir(run.model).about, {"step": 4, "eval/accuracy": 0.5})
    first, second = in_ranks(2, kept_in_two_views, run.path, tmp_path / "stale")
    assert first == second == {"step": 4, "eval/accuracy": 0.5}


def rewarded(reward: float) -> list[Group]:
    groups = random_groups(3, 1)
    return [Group(g.id, g.prompt_ids, [Completion(g.completions[0].ids, reward=reward)]) for g in groups]


def win_rates(here: World, run: Path, stale: Path) -> list[Any]:
    place = stale if here.rank else run
    seen: Any = SimpleNamespace(dir=place, files=RunDir(place), is_main=here.rank == 0)
    held_out_metrics(seen, here, 0, rewarded(1.0), None)
    return here.gather(held_out_metrics(seen, here, 2, rewarded(2.0), None)["eval/win_rate"])


@pytest.mark.slow
def test_rank_0_reads_the_replies_before_training(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert in_ranks(2, win_rates, tmp_path / "run", tmp_path / "stale") == [1.0, 1.0]


def test_a_stop_that_another_node_still_sees_stops_nothing(tmp_path: Path) -> None:
    main, other = StopRequest(tmp_path, True), StopRequest(tmp_path, False)
    RunDir(tmp_path).stop.touch()
    assert main.requested() and not other.requested()


def test_a_file_of_another_process_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "shard"
    threading.Timer(0.5, file.touch).start()
    await_file(file, 20.0)
    with pytest.raises(FileNotFoundError, match="cannot see it"):
        await_file(tmp_path / "never", 0.1)
