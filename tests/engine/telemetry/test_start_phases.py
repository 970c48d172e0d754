"""Rank 0 prints the time until the first step by phase, and the log and `summary.json` have it."""

import io
import json
import re
import time
from pathlib import Path

import pytest

from psychocounsel.engine.telemetry.phases import Phases, ready_line
from psychocounsel.rundir.attempts import BEGAN, LAUNCHED, start_times
from psychocounsel.rundir.run import Run
from tests.support.harness import ROOT, cli


def a_run(tmp_path: Path, rank: int = 0) -> Run:
    return Run(tmp_path, None, rank, 2, 1, io.StringIO())  # type: ignore[arg-type]


def test_the_line_names_phases_and_the_rest() -> None:
    assert ready_line(41.2, {"imports": 9.4, "data": 2.0, "model": 0.2, "micro-batch": 6.0}) == (
        "ready in 41 s: imports 9 s, data 2 s, micro-batch 6 s, other 24 s"
    )
    assert ready_line(0.4, {"imports": 0.3}) == "ready in 0 s"


def test_a_long_phase_is_announced_and_a_short_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psychocounsel.engine.telemetry.phases._WORTH_A_LINE", 0.05)
    for rank, shown in ((0, "loading: model\n"), (1, "")):
        run = a_run(tmp_path, rank)
        phases = Phases(run)
        with phases("data"):
            pass
        with phases("model"):
            time.sleep(0.3)
        assert phases.seconds["model"] >= 0.3 and capsys.readouterr().err == shown
        assert phases.summary() == {}, "the run was never ready"
        phases.ready()
        phases.ready()
        with phases("evaluation"):
            time.sleep(0.1)
        err = capsys.readouterr().err
        assert err.count("ready in") == (rank == 0) and "evaluation" not in err
        assert "evaluation" not in phases.summary()["startup"]["phases"]


def test_the_first_run_begins_with_its_command_and_later_ones_of_a_sweep_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(BEGAN, "5.0")
    first, second = start_times(), start_times()
    assert first[BEGAN] == "5.0" and float(first[LAUNCHED]) > 5.0
    assert second[BEGAN] == second[LAUNCHED]


def test_a_run_tells_where_its_start_went(small_model: Path, tmp_path: Path) -> None:
    two = ["cluster.processes=2", f"run_dir={tmp_path}/run"]
    said = cli("train", "debug=fast", f"model.path={small_model}", *two, cwd=ROOT).stderr
    (line,) = re.findall(r"^ready in \d+ s.*", said, re.MULTILINE)
    assert line in (tmp_path / "run" / "logs" / "01" / "rank-0.log").read_text()
    startup = json.loads((tmp_path / "run" / "summary.json").read_text())["startup"]
    assert line.startswith(f"ready in {startup['seconds']:.0f} s")
    names = {"settings", "imports", "data", "model", "micro-batch", "reference log-probabilities", "evaluation"}
    assert names <= startup["phases"].keys()
    assert 0 < sum(startup["phases"].values()) <= startup["seconds"] + 0.1
