"""On a real SLURM: two shells submit one sweep, a held run is corrected, and a sweep of 200 runs is one call of sbatch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm_cluster import Cluster, start

_HELD = "+cluster.sbatch.hold=true"


@pytest.fixture(scope="module")
def slurm(small_model: Path) -> Iterator[Cluster]:
    yield from start(small_model)


def records(home: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(home.glob("submissions/*/submission.json"))]


@pytest.mark.slow
def test_two_shells_that_submit_one_sweep_at_once_make_one_array(slurm: Cluster, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    command = [sys.executable, "-m", "psychocounsel.train", "-m", "seed=1,2,3", *slurm.overrides(), _HELD]
    environment = {**os.environ, **slurm.environment}
    shells = [
        subprocess.Popen([*command, f"sweep_dir={sweep}"], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [shell.communicate(timeout=300)[0] for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0], said
    assert len(records(sweep)) == 1 and len(records(sweep)[0]["tasks"]) == 3
    assert sum("submitted array of 3" in text for text in said) == 1
    assert sum("not submitted: 3 submitted before" in text for text in said) == 1
    queued = slurm.call("squeue", "-h", "-r", "-o", "%F %o").splitlines()
    assert [line.split()[0] for line in queued if str(sweep) in line] == records(sweep)[0]["jobs"] * 3
    assert len((sweep / "sweep.jsonl").read_text().splitlines()) == 3
    slurm.jobs("cancel", str(sweep))


@pytest.mark.slow
def test_a_waiting_run_blocks_a_correction_and_a_cancelled_one_takes_it(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slurm.train(*slurm.overrides(run_dir=run), _HELD)
    refused = slurm.train(*slurm.overrides(run_dir=run, max_length=600), check_code=2).stderr
    assert "belongs to a run with other settings (max_length was " in refused and "which is pending" in refused
    assert f"jobs cancel {run}` cancels its job; then repeat this command" in refused
    slurm.jobs("cancel", str(run))
    done = slurm.train(*slurm.overrides(run_dir=run, max_length=600))
    assert f"{run}: has made no step yet and is corrected: max_length was " in done.stdout
    assert slurm.ended(run) == ["finished"] and "max_length: 600" in (run / "config.yaml").read_text()
    assert len(records(run)) == 2


@pytest.mark.slow
def test_a_running_run_without_a_step_blocks_a_correction(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hangs = "+callbacks.hang={_target_: tests.support.killer.Hang, step: 0, event: eval_batch}"
    slurm.train(*slurm.overrides(run_dir=run), hangs)
    slurm.until(lambda: (run / "owner.json").exists() and slurm.states(run) == ["running"], folder=run)
    before = (run / "config.yaml").read_text()
    refused = slurm.train(*slurm.overrides(run_dir=run, max_length=600), check_code=2).stderr
    assert "is in use by" in refused or "which is running" in refused, refused
    assert (run / "config.yaml").read_text() == before and len(records(run)) == 1
    slurm.jobs("cancel", str(run))


@pytest.mark.slow
def test_200_runs_are_composed_from_one_set_of_files_and_submitted_by_one_call(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test counts calls of SLURM, processes and written files, because the time depends on the machine."""
    counting = tmp_path / "bin"
    counting.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "sinfo", "git"):
        real = subprocess.run(["which", name], capture_output=True, text=True).stdout.strip()
        (counting / name).write_text(f'#!/bin/sh\necho {name} >> {tmp_path}/calls\nexec {real} "$@"\n')
        (counting / name).chmod(0o755)
    sweep, seeds = tmp_path / "sweep", ",".join(map(str, range(200)))
    path = f"{counting}:{os.environ['PATH']}"
    done = slurm.train("-m", f"seed={seeds}", *slurm.overrides(), _HELD, f"sweep_dir={sweep}", PATH=path)
    assert "submitted array of 200" in done.stdout
    calls = (tmp_path / "calls").read_text().split()
    assert calls.count("sbatch") == 1 and calls.count("squeue") <= 2 and len(calls) <= 20, calls
    assert len(records(sweep)) == 1 and len([*sweep.glob("*/job.json")]) == 200
    assert {path.name for path in (sweep / "seed-7").iterdir()} == {
        "code.txt",
        "config.yaml",
        "job.json",
        "overrides.txt",
    }
    slurm.jobs("cancel", str(sweep))
