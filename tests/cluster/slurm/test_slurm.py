"""`cluster=slurm` on a real SLURM: jobs are submitted, watched, refused, repaired and resumed."""

import json
import os
import pwd
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.cluster.slurm.queue import queued_runs
from psychocounsel.rundir import submissions
from tests.support.harness import metrics_of
from tests.support.read_only import run_read_only
from tests.support.slurm_cluster import Cluster, start


@pytest.fixture(scope="module")
def slurm(small_model: Path) -> Iterator[Cluster]:
    yield from start(small_model)


@pytest.fixture(scope="module")
def without_torch(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the PYTHONPATH of a login node without torch. Rows stay unchecked there, which saves the time of its import."""
    tools = tmp_path_factory.mktemp("no-torch")
    (tools / "torch.py").write_text("raise ImportError('no torch on the login node')")
    return f"{tools}:{slurm.environment['PYTHONPATH']}"


@pytest.mark.slow
def test_a_job_is_submitted_at_once_and_trains(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "50%test"  # srun reads %t in names of files
    given = [*slurm.overrides(run_dir=run), "+cluster.sbatch.hold=true"]
    done = slurm.train(*given)  # the command returns while the job is held
    *_, rows, submitted = done.stdout.splitlines()
    assert re.search(r"80 training groups, 8 held-out groups of \d prompts, 4 steps$", rows)
    assert submitted.startswith("submitted job ")
    again = slurm.train(*given)
    assert "submitted before as" in again.stdout
    slurm.call("scontrol", "release", slurm.job_of(run))
    assert slurm.ended(run) == ["finished"]
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert (run / "model" / "model.safetensors").exists()
    assert "finished at step 4 of 4" in slurm.jobs("logs", str(run))
    slurm.until(lambda: "JobState=COMPLETED" in slurm.call("scontrol", "show", "job", slurm.job_of(run)), 60, run)
    assert "finished" in slurm.train(*given).stdout
    alone = tmp_path / "alone"
    slurm.train(*slurm.here(run_dir=alone))
    assert metrics_of(run) == metrics_of(alone), "the same training as without SLURM"


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "more"), [(3, 1), pytest.param(12, 3, marks=pytest.mark.proof)])
def test_an_array_with_a_failing_index_is_repaired_and_joined_by_new_ones(
    runs: int, more: int, slurm: Cluster, tmp_path: Path
) -> None:
    sweep, file = tmp_path / "sweep", tmp_path / "broken"
    file.touch()
    fail = f"+callbacks.fail={{_target_: tests.support.killer.Fail, seed: 2, file: {file}}}"
    given = ["-m", *slurm.overrides(2, sweep_dir=sweep, **{"cluster.max_parallel": 2}), fail]
    done = slurm.train(*given, f"seed=range(1,{runs + 1})")
    assert f"array of {runs} as job " in done.stdout
    others = ["finished"] * (runs - 2)
    assert slurm.ended(sweep, 60 + 20 * runs) == ["finished", "failed", *others]
    said = slurm.jobs("status", str(sweep))
    assert re.search(
        r"1: failed: crashed at step 1 \(exit code 1\): \w+: .*made to fail.*, like the previous attempt, so", said
    )
    assert "jobs resubmit" in said
    rows = list(map(json.loads, (sweep / "sweep.jsonl").read_text().splitlines()))
    assert "made to fail" in (sweep / rows[1]["run_dir"] / "logs" / "latest" / "failure.txt").read_text()
    file.unlink()
    done = slurm.train(*given, f"seed=range(1,{runs + more + 1})")
    assert ("submitted job" if more == 1 else f"submitted array of {more} as job") in done.stdout
    assert ", at most 2 at a time: " in done.stdout or more == 1
    assert f"not submitted: {runs - 1} finished" in done.stdout
    assert "not submitted: 1 ended unfinished" in done.stdout
    assert "submitted job" in slurm.jobs("resubmit", str(sweep), "1", "cluster.time=2h")
    assert slurm.ended(sweep, 200) == ["finished"] * (runs + more)
    assert len((sweep / "sweep.jsonl").read_text().splitlines()) == runs + more


@pytest.mark.slow
def test_what_is_refused_leaves_nothing(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for wrong, message in (
        (["cluster.partition=nowhere"], "nowhere"),
        (["cluster.constraint=gold"], "sbatch refused"),
        ([f"after=[{tmp_path}/never]"], "is neither a run nor a sweep"),
        (["cluster.partition=short", "cluster.time=2h"], "is more than partition short allows (10 min)"),
        (["model.path=nobody/nothing"], "first run `psychocounsel prepare model=local"),
    ):
        done = slurm.train(*slurm.overrides(run_dir=run), *wrong, check_code=2)
        assert message in done.stderr
        assert errors_of(done) == done.stderr.splitlines()[-1:]
        assert list(tmp_path.iterdir()) == []


# Repeated, because Python ignores an exception that comes at the end of its fork.
_INTERRUPTED = """#!/bin/sh
for attempt in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -INT $PPID; done
"""
_THEN_SILENT = """#!/bin/sh
{sbatch} "$@" && touch {flag}
"""
_SILENT = """#!/bin/sh
test ! -e {flag} || exit 1
exec {squeue} "$@"
"""


@pytest.mark.slow
def test_ctrl_c_while_submitting_leaves_nothing_and_a_failing_wait_leaves_the_submitted_runs(
    slurm: Cluster, tmp_path: Path
) -> None:
    place, tools, flag = tmp_path / "runs", tmp_path / "tools", tmp_path / "flag"
    tools.mkdir()
    place.mkdir()
    here = {"PATH": f"{tools}:{os.environ['PATH']}"}

    def tool(name: str, text: str) -> None:
        found = {each: shutil.which(each) for each in ("sbatch", "squeue")}
        (tools / name).write_text(text.format(flag=flag, **found))
        (tools / name).chmod(0o755)

    held = "+cluster.sbatch.hold=true"
    tool("sbatch", _INTERRUPTED)
    slurm.train(*slurm.overrides(run_dir=place / "one"), held, check_code=75, **here)
    slurm.train("-m", *slurm.overrides(sweep_dir=place / "two"), held, "seed=1,2", check_code=75, **here)
    assert list(place.iterdir()) == []
    tool("sbatch", _THEN_SILENT)
    tool("squeue", _SILENT)
    run = place / "one"
    done = slurm.train(*slurm.overrides(run_dir=run), held, "cluster.wait=true", check_code=2, **here)
    assert "squeue refused" in done.stderr and (run / "config.yaml").exists()
    flag.unlink()
    (tools / "squeue").unlink()
    slurm.jobs("cancel", str(run))
    config = (run / "config.yaml").read_text()
    tool("sbatch", _INTERRUPTED)
    slurm.jobs("resubmit", str(run), "cluster.time=3h", check_code=130, **here)
    assert (run / "config.yaml").read_text() == config


def errors_of(done: Any) -> list[str]:
    """Return the error lines of a command, without the lines about its rows."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


_COUNTED = """#!/bin/sh
echo call >> {log}
exec {sbatch} "$@"
"""


@pytest.mark.slow
def test_a_sweep_is_one_call_and_submitting_needs_no_torch(slurm: Cluster, without_torch: str, tmp_path: Path) -> None:
    sweep, tools, log = tmp_path / "sweep", tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    (tools / "sbatch").write_text(_COUNTED.format(log=log, sbatch=shutil.which("sbatch")))
    (tools / "sbatch").chmod(0o755)
    found = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": without_torch}
    given = ["-m", *slurm.overrides(2, sweep_dir=sweep), "+cluster.sbatch.hold=true", "seed=range(1,46)"]
    done = slurm.train(*given, **found)
    assert "array of 45" in done.stdout
    assert "80 training groups, 8 held-out groups" in done.stdout and "unchecked" not in done.stdout
    assert log.read_text() == "call\n"
    assert slurm.states(sweep) == ["pending"] * 45
    assert "not submitted: 45 submitted before" in slurm.train(*given, **found).stdout
    slurm.jobs("cancel", str(sweep), "7")
    assert slurm.states(sweep)[6:9] == ["pending", "cancelled", "pending"]
    slurm.jobs("cancel", str(sweep))
    assert slurm.states(sweep) == ["cancelled"] * 45


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_nothing_is_half_submitted(
    slurm: Cluster, without_torch: str, tmp_path: Path
) -> None:
    import resource
    import subprocess

    def almost_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a write beyond this size fails, as on a full disk

    command = [sys.executable, "-m", "psychocounsel.train", *slurm.overrides(run_dir=tmp_path / "run")]
    environment = {**os.environ, **slurm.environment, "PYTHONPATH": without_torch}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=almost_full)
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert errors_of(done) == done.stderr.splitlines()[-1:]
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in slurm.call("squeue", "-h", "-o", "%o")


@pytest.mark.slow
@pytest.mark.parametrize("given", [["run_dir=FOLDER/run"], ["-m", "seed=1,2", "sweep_dir=FOLDER/sweep"]])
def test_a_read_only_disk_is_one_line_and_nothing_is_half_submitted(
    given: list[str], slurm: Cluster, without_torch: str, tmp_path: Path
) -> None:
    disk, before = tmp_path / "disk", slurm.call("squeue", "-h", "-o", "%i")
    disk.mkdir()
    command = [sys.executable, "-m", "psychocounsel.train", *slurm.overrides(), *given]
    done = run_read_only(command, disk, {**os.environ, **slurm.environment, "PYTHONPATH": without_torch})
    assert done.returncode == 2
    assert done.stderr.endswith("Read-only file system\n")
    assert errors_of(done) == done.stderr.splitlines()[-1:]
    assert list(tmp_path.rglob("*")) == [disk]
    assert slurm.call("squeue", "-h", "-o", "%i") == before


@pytest.mark.slow
def test_waiting_returns_objectives_and_takes_up_again(slurm: Cluster, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    given = ["-m", *slurm.overrides(2, sweep_dir=sweep), "seed=1,2"]
    slurm.train(*given)
    done = slurm.train(*given, "cluster.wait=true")
    assert "waiting for all jobs" in done.stderr
    assert slurm.states(sweep) == ["finished"] * 2
    assert len(json.loads((sweep / "submissions" / "0001" / "submission.json").read_text())["jobs"]) == 1
    assert not (sweep / "submissions" / "0002").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root submits for another user")
def test_jobs_of_the_user_who_submitted_a_run_are_found(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CONF", "PYTHONPATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    job = slurm.call("sbatch", "--parsable", "--hold", "--uid=nobody", "--chdir=/", "--wrap=true").strip()
    submission = submissions.new_submission(tmp_path)
    submissions.write(submission, tmp_path, [job], [[tmp_path / "run"]], [])
    os.chown(submission.path, pwd.getpwnam("nobody").pw_uid, -1)
    queued = queued_runs(tmp_path)[tmp_path / "run"]
    slurm.call("scancel", job)
    assert queued.is_live and queued.waits and queued.record.task_names(queued.index) == [job]


@pytest.mark.slow
def test_logs_follow_a_run_to_its_end_and_an_archive_can_be_read(slurm: Cluster, tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"
    slurm.train(*slurm.overrides(3, run_dir=run))
    slurm.until(lambda: (run / "logs" / "01" / "rank-0.out").exists(), 60, run)
    assert "still" not in slurm.jobs("archive", str(run), str(kept), check_code=2)
    followed = slurm.jobs("logs", str(run), "-f")
    assert "finished at step 3 of 3" in followed
    assert "[finished]" in followed
    assert "1 finished" in slurm.jobs("status", str(run), "--watch"), "it ends when nothing lives"
    assert "files" in slurm.jobs("archive", str(run), str(kept))
    assert (kept / "model" / "model.safetensors").exists() and (kept / "code").is_dir()
    names = {file.name for file in kept.glob("checkpoints/*/policy/*")}
    assert names == {"engine.json", "weights-00000.safetensors"}, "no optimizer state"
    assert slurm.states(kept) == ["finished"]
