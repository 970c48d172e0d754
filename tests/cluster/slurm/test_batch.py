"""What is asked of SLURM, without SLURM: times, refusals, the batch script, verdicts on attempts, copies of code."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.cluster.job import Job
from psychocounsel.cluster.slurm import attempt, scheduler, snapshot
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.script import directives, render
from psychocounsel.cluster.slurm.submitting import arrays
from psychocounsel.cluster.slurm.units import megabytes_of, parse_slurm_time, seconds_of, slurm_time
from psychocounsel.errors import UserError
from psychocounsel.settings.config import check, compose

# -- times and sizes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("90m", 5400), ("1.5h", 5400), ("2d", 172800), ("1-12:00:00", 129600), ("24:00:00", 86400)],
)
def test_times_people_write_come_back_from_slurm(text: str, seconds: int) -> None:
    assert seconds_of(text, "cluster.time") == seconds
    assert parse_slurm_time(slurm_time(seconds)) == seconds


@pytest.mark.parametrize("wrong", [86400, "86400", "24", "1:00", "24:00:61", "1-30:00:00", "soon", "-3h", "30s", True])
def test_what_is_no_time_is_refused_and_so_is_what_yaml_makes_of_one(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"cluster\.time="):
        seconds_of(wrong, "cluster.time")


def test_squeue_prints_times_in_several_lengths() -> None:
    assert [parse_slurm_time(text) for text in ("0:07", "12:34", "1:02:03", "2-00:00:01")] == [7, 754, 3723, 172801]
    assert parse_slurm_time("UNLIMITED") == float("inf")


def test_sizes() -> None:
    assert [megabytes_of(text, "m") for text in ("64G", "64000M", "1T", "0", 0, "2GB")] == [
        65536, 64000, 1048576, 0, 0, 2048,
    ]  # fmt: skip
    with pytest.raises(UserError, match="cluster.memory=64: is not a size"):
        megabytes_of(64, "cluster.memory")


# -- refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.time=86400"], "a number without a unit"),
        (["cluster.time=4m"], "leaves nothing before"),
        (["cluster.nodes=2", "cluster.processes=3"], "must be a multiple of cluster.nodes=2"),
        (["cluster.gpus_per_node=4", "cluster.processes=5"], "has 4 GPUs"),
        (["cluster.gpus_per_node=4", "cluster.runs_side_by_side=3"], "must divide cluster.gpus_per_node=4"),
        (["cluster.nodes=2", "cluster.gpus_per_node=2", "cluster.runs_side_by_side=2"], "use cluster.nodes=1"),
        (["cluster.gpus_per_node=0", "cluster.device=cuda"], "needs cluster.gpus_per_node=1"),
        (["cluster.segments=3"], "add cluster.requeue=false"),
        (["+cluster.sbatch.array=1-3"], "cluster.sbatch.array: submission decides it"),
        (["+cluster.sbatch.partition=gpu"], "use cluster.partition"),
        (["+cluster.environment.WANDB_API_KEY=abc"], "a secret would stand in the batch script"),
        (["cluster.container.image=nowhere.sif"], "no such file"),
        (["cluster.server_nodes=1"], "what is to run there"),
        (["cluster.partion=gpu"], "did you mean cluster.partition"),
        (["cluster.memory=lots"], "is not a size"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(overrides: list[str], message: str) -> None:
    from psychocounsel.settings.messages import one_line

    with pytest.raises(Exception, match=".*") as raised:
        check(compose(["cluster=slurm", *overrides]))
    assert message in one_line(raised.value, ["cluster=slurm", *overrides])


# -- the script


def script(tasks: int = 1, **settings: Any) -> str:
    return render(SlurmRequest(**settings), "name", Path("/runs/s"), tasks, [Path("/runs/s/code/x")], ["/runs/s"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"modules": ["cuda/12.8", "gcc"], "setup": ["source activate mine"], "environment": {"A": "b c'd"}},
        {"server_nodes": 2, "nodes": 2},
        {"requeue": False, "segments": 3},
        {"gpus_per_node": 8, "runs_side_by_side": 4, "memory": "64G"},
        {"container": {"image": "/images/my image.sif", "binds": ["/data:/data"]}},
    ],
)
def test_the_script_is_valid_shell(settings: dict[str, Any], tmp_path: Path) -> None:
    text = script(**settings)
    (tmp_path / "job.sbatch").write_text(text)
    subprocess.run(["bash", "-n", str(tmp_path / "job.sbatch")], check=True)
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert not any(line and not line.startswith("#") for line in lines[:last]), "sbatch reads no option after a command"


def test_what_a_request_says() -> None:
    asked = directives(
        SlurmRequest(
            nodes=2,
            gpus_per_node=4,
            gpu_type="a100",
            memory="0",
            time="2d",
            max_parallel=4,
            sbatch={"hint": "nomultithread"},
        ),
        "name",
        Path("/runs/50% of it"),
        12,
        "afterok:7",
    )
    assert {
        "--array=0-11%4", "--nodes=2", "--ntasks-per-node=4", "--gres=gpu:a100:4", "--mem=0", "--time=2-00:00:00",
        "--signal=B:USR1@300", "--requeue", "--dependency=afterok:7", "--kill-on-invalid-dep=yes", "--hint=nomultithread",
        "--open-mode=append", "--output=/runs/50%%\\ of\\ it/slurm-%A_%a.out",
    } <= set(asked)  # fmt: skip
    assert "--gpus-per-node=h100:8" in directives(
        SlurmRequest(gpus_per_node=8, gpu_type="h100", gpu_request="gpus_per_node"), "n", Path("/r"), 1
    )


def test_a_container_gets_the_gpus_and_the_folders() -> None:
    text = script(container={"image": "/i.sif", "arguments": ["--cleanenv"]})
    assert "python=(apptainer exec --nv --bind /runs/s --cleanenv /i.sif python3 -P)" in text
    assert "--nv" not in script(container={"image": "/i.sif"}, device="cpu")


def test_runs_side_by_side_share_a_node() -> None:
    cluster = SlurmRequest(gpus_per_node=8, runs_side_by_side=4, memory="64G")
    assert (cluster.process_count(), cluster.group) == (2, 4)
    text = script(gpus_per_node=8, runs_side_by_side=4, memory="64G")
    assert "--ntasks-per-node=8" in text
    assert re.search(r"srun --nodes=1 --ntasks=2 .*--exact --mem=16384M --gres=gpu:2", text)


# -- one array for each request


def job(index: int, *overrides: str) -> Job:
    return Job("psychocounsel.train", check(compose(["cluster=slurm", *overrides])), Path(f"/runs/{index}"), index)


def test_jobs_are_grouped_by_what_they_ask_for_and_cut_at_the_largest_array() -> None:
    jobs = [job(number, f"cluster.nodes={1 + number % 2}") for number in range(5)]
    found = [[[each.index for each in task] for task in batch.tasks] for batch in arrays(jobs, 2)]
    assert found == [[[0], [2]], [[4]], [[1], [3]]]
    packed = arrays([job(number, "cluster.runs_per_job=2") for number in range(5)], 100)
    assert [[each.index for each in task] for task in packed[0].tasks] == [[0, 1], [2, 3], [4]]


# -- attempts


def test_the_rank_that_failed_first_gives_the_exit_code() -> None:
    text = (
        "srun: error: n2: task 3: Killed\n"
        "srun: launch/slurm: _step_signal: Terminating StepId=7.0\n"
        "srun: error: n1: tasks 0-1: Exited with exit code 75\n"
    )
    causes = attempt.failed_tasks(text)
    assert [(rank, code) for rank, code, _ in causes] == [(3, 137), (0, 75), (1, 75)]
    assert attempt.cause(causes, 137, asked=False) == (3, 137)
    wrong = attempt.failed_tasks(
        "srun: error: n1: task 1: Exited with exit code 1\nsrun: error: n1: task 0: Exited with exit code 2"
    )
    assert attempt.cause(wrong, 2, asked=False) == (0, 2)


def test_a_rank_that_dies_of_the_request_to_stop_has_stopped() -> None:
    causes = attempt.failed_tasks("srun: error: n1: task 0: User defined signal 1\n")
    assert attempt.cause(causes, 138, asked=True) == (None, 75)
    assert attempt.cause(causes, 138, asked=False) == (0, 138)


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempt.judge(0, 9, {}, 20)[:2] == ("finished", False)
    assert attempt.judge(2, 0, {}, 20)[:2] == ("failed", False)
    assert attempt.judge(3, 4, {}, 20) == ("failed", False, "a gate said no at step 4 (exit code 3)")
    assert attempt.judge(75, 4, {}, 20, "USR1") == ("stopped", True, "stopped at step 4 (USR1)")
    assert attempt.judge(137, 4, {}, 20)[:2] == ("crashed", True)
    assert attempt.judge(1, 4, {"verdict": "crashed", "step": 4}, 20)[:2] == ("failed", False)
    assert attempt.judge(1, 5, {"verdict": "crashed", "step": 4}, 20)[:2] == ("crashed", True)
    assert attempt.judge(1, 4, {"verdict": "stopped", "step": 4}, 20)[:2] == ("crashed", True)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert attempt.judge(75, 4, {}, 3)[:2] == ("stopped", False)
    assert "cluster.max_requeues=3" in attempt.judge(1, 4, {}, 3)[2]


def test_an_attempt_is_numbered_and_not_made_again_when_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("cluster: {max_requeues: 5}\n")
    (tmp_path / "state.json").write_text('{"step": 3}')
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert attempt.begin(tmp_path) == ("01", 0)
    assert attempt.end(tmp_path, 1, 75, "USR1") == "again"
    (tmp_path / "owner.json").write_text("{}")  # of the attempt that SLURM ended
    assert attempt.begin(tmp_path) == ("02", 0)
    assert not (tmp_path / "owner.json").exists()
    assert (tmp_path / "logs" / "latest").readlink() == Path("02")
    (tmp_path / "logs" / "02" / "rank-0.out").write_text("the last words\n")
    assert attempt.end(tmp_path, 2, 2, "no") == "2"
    assert "the last words" in (tmp_path / "logs" / "02" / "failure.txt").read_text()
    assert attempt.begin(tmp_path) == ("", 2), "given up in this job"
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert attempt.begin(tmp_path) == ("03", 0), "submitted again"
    (tmp_path / "summary.json").write_text('{"status": "finished"}')
    assert attempt.begin(tmp_path) == ("", 0)


# -- copies of code


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


_HAS_GIT = subprocess.run("git --version", shell=True, capture_output=True).returncode == 0


@pytest.mark.skipif(not _HAS_GIT, reason="no git here")
def test_a_users_checkout_is_copied_without_what_git_ignores(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("own_algo.py", "helper.py", "big.bin", ".gitignore"):
        (mine / name).write_text("*.bin\n" if name == ".gitignore" else "x = 1\n")
    git(mine, "init", "-q")
    git(mine, "add", "own_algo.py")
    _, copy = snapshot.take(tmp_path / "run", [str(mine)], ["own_algo.Algo"], 200)
    assert sorted(path.name for path in copy.iterdir()) == [".gitignore", "helper.py", "own_algo.py"]
    assert snapshot.take(tmp_path / "run", [str(mine)], ["own_algo.Algo"], 200)[1] == copy
    (mine / "helper.py").write_text("x = 2\n")
    assert snapshot.take(tmp_path / "run", [str(mine)], ["own_algo.Algo"], 200)[1] != copy
    assert (copy / "helper.py").read_text() == "x = 1\n"


def test_outside_of_a_checkout_the_named_module_is_copied_and_nothing_without_one(tmp_path: Path) -> None:
    for name in ("own_algo.py", "private.txt"):
        (tmp_path / name).write_text("x = 1\n")
    package, copy = snapshot.take(tmp_path / "run", [str(tmp_path)], ["own_algo.Algo"], 200)
    assert [path.name for path in copy.iterdir()] == ["own_algo.py"]
    assert (package / "psychocounsel" / "worker.py").exists()
    assert len(snapshot.take(tmp_path / "run", [str(tmp_path)], ["psychocounsel.algo.dpo.DPO"], 200)) == 1


def test_a_copy_that_would_be_large_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"more than cluster.snapshot_limit_mb=1: .*model\.safetensors"):
        snapshot.take(tmp_path, [], [], 1)


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "QOSMaxSubmitJobPerUserLimit; .*cluster.runs_per_job=N lets a job do N runs",
        ),
        (
            "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error\nsbatch: fatal: Could not establish a "
            "configuration source",
            "^sbatch refused: sbatch: fatal: Could not establish a configuration source$",
        ),
    ],
)
def test_what_slurm_says_is_shown_with_what_helps(
    says: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").write_text(f'#!/bin/sh\nprintf "%s\\n" "{says}" >&2\nexit 1\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=expected):
        scheduler.submit(tmp_path / "job.sbatch")


def test_submission_needs_slurm_and_leaves_nothing_without(tmp_path: Path) -> None:
    from tests.support.harness import cli

    done = cli("train", "cluster=slurm", cwd=tmp_path, check_code=2, PATH="/usr/nowhere")
    assert "there is no `scontrol` here" in done.stderr or "there is no `sbatch` here" in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == "[]"
