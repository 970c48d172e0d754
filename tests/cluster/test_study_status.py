"""`jobs status` shows a study, and runs that do not train, from their files alone."""

import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.cluster import resubmission, states
from psychocounsel.cluster.states import rows, table
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir, StudyDir
from psychocounsel.rundir.results import write_state, write_summary
from psychocounsel.rundir.run_config import write_job
from psychocounsel.rundir.sweep import add_to_table
from psychocounsel.settings.command import command_of
from psychocounsel.storage.locks import held
from psychocounsel.studies import status

_LOCAL = {"_target_": "psychocounsel.cluster.local.Local", "processes": None, "device": "cpu", "threads": None}


def run(folder: Path, module: str = "train", phase: str = "", status: str = "") -> Path:
    folder.mkdir(parents=True)
    RunDir(folder).config.write_text(OmegaConf.to_yaml({"cluster": _LOCAL}))
    write_job(folder, f"psychocounsel.{module}", 0, [])
    if phase:
        RunDir(folder).attempt(1).path.mkdir(parents=True)
        write_state(folder, 1, phase, 3, 12)
    if status:
        write_summary(folder, status, metrics={})
    return folder


def test_an_evaluation_has_no_columns_of_training(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    cells = [run(sweep / name, "evaluate", "verdicts", status) for name, status in (("a", "finished"), ("b", ""))]
    add_to_table(sweep, [(cell, [f"judge={cell.name}"]) for cell in cells])
    titles, *lines = table(rows(sweep), sweep).splitlines()
    assert titles.split() == ["index", "state", "at", "attempts", "elapsed", "job", "node", "overrides"]
    assert lines[0].split() == ["0", "finished", "3/12", "1", "judge=a"]
    crashed = run(tmp_path / "crashed", "train", "failed", "stopped")  # its attempt before
    RunDir(crashed).attempt(1).log(0).write_text("Traceback (most recent call last):\nValueError: no weights\n")
    assert "failed  " in (said := table(rows(crashed), crashed)) and "ValueError: no weights" in said
    trained = table(rows(run(tmp_path / "trained", "train", "training")), tmp_path / "trained")
    assert trained.split()[:5] == ["index", "state", "step", "loss", "attempts"] and " 3/12 " in trained


@pytest.fixture
def study(tmp_path: Path) -> Path:
    files = StudyDir(tmp_path / "study")
    run(files.path / "sft" / "run", "train", "training", "finished")
    run(files.path / "dpo" / "beta-1", "train", "training", "finished")
    run(files.path / "dpo" / "beta-2", "train", "training", "stopped")
    run(files.path / "dpo" / "old", "train", "training", "stopped")
    run(files.path / "dpo" / "select-0a1b2c3d", "launch")
    for stage, names in (("sft", ["run"]), ("dpo", ["old", "beta-1", "beta-2"])):
        folder = files.path / stage
        add_to_table(folder, [(folder / name, ["algo=dpo", f"algo.beta={name[-1]}"]) for name in names])
    cells = {"sft": ["run"], "dpo": ["beta-1", "beta-2"], "final": ["run"]}
    listed = {
        stage: {"cells": [{"name": name, "run_dir": f"{stage}/{name}"} for name in names]}
        for stage, names in cells.items()
    }
    listed["dpo"]["select"] = "select-0a1b2c3d"
    files.study.write_text("stages: {}\n")
    files.cells.write_text(json.dumps({"stages": listed}))
    return files.path


def test_a_study_is_shown_stage_by_stage_with_the_cells_that_it_has_now(study: Path) -> None:
    text, is_live = status.status(study)
    stages, runs, end = text.split("\n\n")
    assert [line.split(maxsplit=2) for line in stages.splitlines()] == [
        ["stage", "finished", "state"],
        ["sft", "1/1", "1 finished"],
        ["dpo", "1/3", "1 finished, 1 stopped, 1 not submitted"],
        ["final", "0/1", "1 not submitted"],
    ]
    lines = [line.split() for line in runs.splitlines()]
    assert [line[0] for line in lines] == ["run", "sft/0", "dpo/1", "dpo/2", "dpo/select-0a1b2c3d", "final"]
    assert lines[2][-1] == "algo.beta=1" and "algo=dpo" not in runs, "what tells them apart"
    assert "repeat the study's command" in end and not is_live


def test_runs_of_earlier_settings_and_shards_are_shown_while_they_run_and_cancelled_with_the_study(study: Path) -> None:
    old, shards = study / "dpo" / "old", study / "dpo" / "beta-2" / "shards"
    shard = run(shards / "000", "evaluate")
    add_to_table(shards, [(shard, [])])
    with held(RunDir(old).owner), held(RunDir(shard).owner):
        text, is_live = status.status(study)
        for what, folder in (("runs of earlier settings", "dpo"), ("shards", "dpo/beta-2/shards")):
            assert re.search(rf"besides, {what}: 1 running \(psychocounsel jobs status \S*study/{folder}\)", text)
        assert is_live
        with pytest.raises(UserError, match=f"{old}/stop {shard}/stop"):  # by files, because no queue has them
            status.cancel(study)
        with pytest.raises(UserError, match=f"{shard} is in use"):  # both would buy the same answers
            command_of("psychocounsel.evaluate").refuse_others_at_work(OmegaConf.create(), shards.parent)
        with pytest.raises(UserError, match=f"touch {shard}/stop"):
            resubmission.cancel(study / "dpo", [2])


def test_what_a_study_cannot_do_names_what_can(study: Path) -> None:
    for command, advice in (("logs", r"logs \S*study/STAGE INDEX"), ("resubmit", "repeat its command")):
        with pytest.raises(UserError, match=advice):
            status.refuse(study, command)


def test_the_time_left_counts_whole_rounds(tmp_path: Path) -> None:
    """The first step of each round writes its replies: three steps take 9, 1 and 1 seconds."""
    for done, left in ((2, None), (3, None), (4, 8 * 11 / 3), (8, 4 * 11 / 3)):
        rounds = [{"step_seconds": 9.0, "rollout/reward": 0.1}, {"step_seconds": 1.0}, {"step_seconds": 1.0}] * 3
        lines = [{"step": step, "loss": 0.5, **line} for step, line in enumerate(rounds[:done], 1)]
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        row = states.Row(None, tmp_path, "", total=12)
        states._read_metrics(row)
        assert row.step == done and row.remaining == (None if left is None else pytest.approx(left))
