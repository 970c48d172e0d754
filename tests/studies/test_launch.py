"""`psychocounsel launch` with real runs: a chain, a stage that fails, what is made again, and launchers that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psychocounsel.errors import CONTINUE_LATER, GATE_NO, USER_ERROR
from psychocounsel.rundir.results import is_finished
from psychocounsel.rundir.run import next_number
from psychocounsel.storage.files import read_mapping
from tests.support.harness import SESSION_CACHE, cli
from tests.support.small_study import write_study

SIZE = "max_steps=1 global_batch_size=4 data.limit=8 eval.limit=4"
STUDY = f"""
about: Two branches, of which one fails.
values: {{seeds: [1], model: FOLDER, size: {SIZE}}}
stages:
  gate: audit audit.max_blind=0.5 audit.permutations=100 audit.folds=2
  behind: {{run: "train algo=sft model.path=${{study.model}}", needs: gate}}
  sft: train algo=sft model.path=${{study.model}} ${{study.size}}
  dpo:
    run: train algo=dpo model.path=${{stage.sft.model}} ${{study.size}} algo.beta=0.05,0.1 seed=${{study.seeds}}
    best: eval/accuracy
  last: train algo=dpo model.path=${{stage.dpo.best.model}} ${{study.size}} data.dev_fraction=0.2
"""


def cells(study: Path) -> dict[str, int]:
    """STAGE/FOLDER of each run that has finished, with how many attempts it took."""
    found = (file.parent for file in study.glob("*/*/study.json"))
    runs = [run for run in found if is_finished(run) and not run.is_symlink()]
    return {str(run.relative_to(study)): next_number(run) - 1 for run in runs}


def arguments(folder: Path, small_model: Path, *more: str) -> list[str]:
    file = write_study(folder, STUDY)
    return ["launch", f"study={file}", f"study_dir={folder / 'study'}", f"model={small_model}", *more]


@pytest.mark.slow
def test_a_failure_stops_what_needs_it_alone_and_a_change_reruns_what_follows(
    small_model: Path, tmp_path: Path
) -> None:
    shared = {"PSYCHOCOUNSEL_CACHE": f"{SESSION_CACHE}/studies"}
    given, study = arguments(tmp_path, small_model), tmp_path / "study"
    result = cli(*given, check_code=GATE_NO, cwd=tmp_path, **shared)
    finished = {"sft/run": 1, "dpo/beta-0.05_seed-1": 1, "dpo/beta-0.1_seed-1": 1, "last/run": 1}
    assert cells(study) == finished, result.stderr
    assert not (study / "behind" / "run").exists()
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith(("gate ", "behind ", "dpo "))]
    assert rows[0][1:5] == ["1", "1", "0", "0"] and rows[0][-2:] == ["1", "refused"], "a verdict is no failure"
    assert rows[1][1:5] == ["1", "0", "0", "1"], "left"
    assert rows[2][1:5] == ["2", "2", "0", "0"], "done"
    chosen = read_mapping(study / "dpo" / "best.json")["chosen"]["run"]
    assert (study / "dpo" / "best").readlink() == Path(chosen)

    result = cli(*given, "last.seed=3", "only=[sft,dpo,last]", cwd=tmp_path, **shared)
    assert cells(study) == {**finished, "last/seed-3": 1}, "nothing else was made again"
    assert "[1/1] last/seed-3" in result.stdout


@pytest.mark.proof
@pytest.mark.parametrize("parallel", [1, 2])
def test_a_launcher_killed_at_any_moment_goes_on_and_makes_nothing_twice(
    parallel: int, small_model: Path, tmp_path: Path
) -> None:
    given = arguments(
        tmp_path,
        small_model,
        f"parallel={parallel}",
        "only=[sft,dpo,last]",
        "size='max_steps=3 global_batch_size=4 data.limit=16 eval.limit=4'",
    )
    study, code, seconds = tmp_path / "study", -1, 4.0
    environment = {**os.environ, "PSYCHOCOUNSEL_CACHE": f"{tmp_path}/cache"}
    done: dict[str, float] = {}
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-m", "psychocounsel.launch", *given[1:]], env=environment, cwd=tmp_path
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for run in cells(study):
            changed = (study / run / "summary.json").stat().st_mtime
            assert done.setdefault(run, changed) == changed, f"{run} was made twice"
        if code == 0:
            break
        seconds *= 1.15
    assert code == 0
    assert sorted(cells(study)) == ["dpo/beta-0.05_seed-1", "dpo/beta-0.1_seed-1", "last/run", "sft/run"]


@pytest.mark.proof
@pytest.mark.parametrize("parallel", [1, 2])
def test_a_stop_request_lets_runs_save_and_the_same_command_goes_on(
    parallel: int, small_model: Path, tmp_path: Path
) -> None:
    given = arguments(
        tmp_path,
        small_model,
        f"parallel={parallel}",
        "only=[sft]",
        "size='max_steps=2000 global_batch_size=4 data.limit=16 eval.limit=4'",
    )
    study, environment = tmp_path / "study", {**os.environ, "PSYCHOCOUNSEL_CACHE": f"{tmp_path}/cache"}
    process = subprocess.Popen(
        [sys.executable, "-m", "psychocounsel.launch", *given[1:]], env=environment, cwd=tmp_path
    )
    end = time.monotonic() + 240
    while not (study / "sft/run/metrics.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.2)
    again = cli(*given, cwd=tmp_path, check_code=USER_ERROR)
    assert "this study is being run by process" in again.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == CONTINUE_LATER
    assert list((study / "sft/run/checkpoints").glob("step-*")), "it saved"
