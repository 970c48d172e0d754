"""On a real SLURM, `jobs` names the causes of failures before a run's own processes start, and reaches a running run."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm_cluster import Cluster, start


@pytest.fixture(scope="module")
def slurm(small_model: Path) -> Iterator[Cluster]:
    yield from start(small_model)


@pytest.mark.slow
def test_the_cause_is_told_where_the_run_itself_could_not(slurm: Cluster, tmp_path: Path) -> None:
    """Three jobs have a failing set-up, a failing srun, and a run that fails twice."""
    runs = [tmp_path / name for name in ("setup", "srun", "twice")]
    fail = "+callbacks.fail={_target_: tests.support.killer.Fail, seed: 1, file: %s}" % (tmp_path / "broken")
    (tmp_path / "broken").touch()
    given = ["cluster.setup=[no_such_command]", "cluster.srun=[--no-such-option]", fail]
    for run, option in zip(runs, given, strict=True):
        slurm.train(*slurm.overrides(run_dir=run), option)
    assert [slurm.ended(run) for run in runs] == [["failed"], ["failed"], ["failed"]]
    said = [slurm.jobs("status", str(run)) for run in runs]
    assert "never started" in said[0] and "no_such_command: command not found" in said[0]
    assert "srun itself failed" in said[1] and "unrecognized option" in said[1] and "wrong input" not in said[1]
    assert "RuntimeError: " in said[2] and "like the previous attempt, so the run was given up" in said[2]
    listed = [line.split() for line in slurm.jobs("list", str(tmp_path)).splitlines()[1:]]
    assert [line[:3] for line in listed] == [["run", "1", "failed"]] * 3
    assert [Path(line[3]).resolve() for line in listed] == sorted(runs), "paths are relative to the working directory"
    assert "no_such_command: command not found" in slurm.jobs("logs", str(runs[0]))
    slurm.jobs("forget", str(runs[0]))
    assert not runs[0].exists()
    held = tmp_path / "held" / "run"
    slurm.train(*slurm.overrides(run_dir=held), "+cluster.sbatch.hold=true")
    (copy,) = (path for path in (tmp_path / "held" / ".code-0").iterdir() if path.suffix != ".used-by")
    shutil.rmtree(copy)
    slurm.call("scontrol", "release", slurm.job_of(held))
    assert slurm.ended(held) == ["failed"]
    gone = f"error: {copy}: the copy of the code is gone: resubmit with code=current"
    assert gone in slurm.jobs("status", str(held)) and gone in slurm.jobs("logs", str(held))
    assert "resubmit with code=current" in slurm.jobs("resubmit", str(held), check_code=2)


@pytest.mark.slow
def test_a_requeued_job_that_dies_before_its_attempt_begins_is_failed(slurm: Cluster, tmp_path: Path) -> None:
    run, broken = tmp_path / "run", tmp_path / "broken"
    setup = f"cluster.setup=['[[ ! -e {broken} ]] || no_such_command']"
    slurm.train(*slurm.overrides(steps=100_000, run_dir=run, **{"data.limit": 80}), setup)
    slurm.until(lambda: slurm.state(run)["phase"] == "training", 120, run)
    broken.touch()
    slurm.call("scancel", "--signal=USR1", "--batch", slurm.job_of(run))
    assert slurm.ended(run) == ["failed"]
    said = slurm.jobs("status", str(run))
    assert "(USR1); the job ended before its next attempt began: " in said and "no_such_command: command not" in said
    assert "[failed] stopped at step " in slurm.jobs("logs", str(run)), "the log is of the attempt before"
    slurm.jobs("resubmit", str(run))
    assert slurm.ended(run) == ["failed"]
    said = slurm.jobs("status", str(run))
    assert "never started (failed): " in said and "no_such_command: command not" in said
    assert "[failed] never started (failed): " in slurm.jobs("logs", str(run))


@pytest.mark.slow
def test_variables_of_the_shell_change_nothing_and_values_with_blanks_arrive(slurm: Cluster, tmp_path: Path) -> None:
    run, comment = tmp_path / "a run", 'two words, a "quote" and a # sign'
    odd = {"SBATCH_TIMELIMIT": "1", "SBATCH_EXPORT": "NONE", "SBATCH_JOB_NAME": "other"}
    options = ["+cluster.sbatch.hold=true", f"+cluster.sbatch.comment='{comment}'", "cluster.time=2h"]
    done = slurm.train(*slurm.overrides(run_dir=f"'{run}'"), *options, **odd)
    for name in odd:
        assert f"{name} of the shell is ignored" in done.stderr
    shown = slurm.call("scontrol", "show", "job", slurm.job_of(run))
    assert "TimeLimit=02:00:00" in shown and f"Comment={comment}" in shown and "JobName=a run" in shown
    assert f"StdOut={run}/submissions/0001/slurm-" in shown
    slurm.jobs("cancel", str(run))


@pytest.mark.slow
def test_a_shell_opens_beside_a_running_run(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slurm.train(*slurm.overrides(steps=100_000, run_dir=run, **{"data.limit": 80}))
    slurm.until(lambda: slurm.state(run)["phase"] == "training", 120, run)
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-m", "psychocounsel.jobs", "attach", str(run)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **slurm.environment},
        start_new_session=True,
    )
    os.write(ours, b"echo in job $SLURM_JOB_ID at $PWD; exit\n")
    said = b""
    while f"in job {slurm.job_of(run)} at {run}".encode() not in said:
        said += os.read(ours, 4096)
    shell.wait(60)
    slurm.jobs("cancel", str(run))
    assert slurm.ended(run) == ["cancelled"]
    again = slurm.jobs("attach", str(run), check_code=2)
    assert "only a running run has nodes to open a shell on" in again


@pytest.mark.slow
def test_what_a_partition_lacks_is_refused_and_a_dry_run_begins_with_the_cost(slurm: Cluster, tmp_path: Path) -> None:
    for option, message in (
        ("cluster.nodes=9", "cluster.nodes=9: the default partition has only 4 nodes. It has 4 nodes with"),
        (
            "cluster.gpus_per_node=64",
            "cluster.gpus_per_node=64: the default partition has no such node. It has 4 nodes",
        ),
        (
            "cluster.cpus_per_process=17",
            "requests 17 CPUs per node: the default partition has no such node. It has 4 nodes",
        ),
        ("cluster.memory=900G", "cluster.memory=900G: the default partition has no such node. It has 4 nodes"),
        ("cluster.gpu_type=h900", "of type h900: the default partition has no such node"),
    ):
        given = [*slurm.overrides(run_dir=tmp_path / "no"), "cluster.gpus_per_node=1", option]
        assert message in slurm.train(*given, check_code=2).stderr
    assert not (tmp_path / "no").exists()
    sweep = ["-m", "seed=1,2,3", "cluster.time=2h", "cluster.max_requeues=4", f"sweep_dir={tmp_path / 'sweep'}"]
    planned = slurm.train(*slurm.overrides(), *sweep, "dry_run=true").stdout.splitlines()
    assert planned[0] == "at most 6 node-hours an attempt; 30 with 4 requeues (cluster.max_requeues)"
    assert planned[1].startswith("3 jobs of 1 node, 0 GPUs and 1 process per node, up to ")
    shared = next(line for line in planned if line.startswith("all 3 have "))
    assert "max_steps=4" in shared and "seed" not in shared
    assert [line.split() for line in planned if " new " in line] == [[str(n), "new", f"seed={n + 1}"] for n in range(3)]
    assert not any(line.startswith("#SBATCH") for line in planned) and "the batch script: dry_run=script" in planned
    script = slurm.train(*slurm.overrides(), *sweep, "dry_run=script").stdout
    assert script.startswith("# script 1 of 1, for 3 runs\n#!/bin/bash") and "#SBATCH --array=0-2" in script
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_cancel_ends_every_job_that_was_ever_submitted_for_a_run(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slurm.train(*slurm.overrides(run_dir=run), "+cluster.sbatch.hold=true")
    first = run / "submissions" / "0001"
    script = first / "job.sbatch"
    other = slurm.call(
        "sbatch", "--parsable", str(script)
    ).strip()  # like a job of another shell that has not recorded it yet
    second = run / "submissions" / "0002"
    shutil.copytree(first, second)
    record = json.loads((second / "submission.json").read_text())
    (second / "submission.json").write_text(json.dumps(record | {"jobs": [other]}))
    assert "cancelled 1 run" in slurm.jobs("cancel", str(run))
    for job in (*record["jobs"], other):
        assert "JobState=CANCELLED" in slurm.call("scontrol", "show", "job", job)
