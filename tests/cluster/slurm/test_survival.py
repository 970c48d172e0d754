"""Runs on a real SLURM survive time limits, preemption, killed processes and `jobs cancel`, and can share nodes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answering import answer_of_wandb, serving
from tests.support.harness import cli, metrics_of
from tests.support.slurm_cluster import Cluster, start


@pytest.fixture(scope="module")
def slurm(small_model: Path) -> Iterator[Cluster]:
    yield from start(small_model)


def assert_same(run: Path, unbroken: Path) -> None:
    """Assert that both runs logged the same numbers and have the same weights, bit by bit."""
    assert metrics_of(run) == metrics_of(unbroken)
    weights = Path("model") / "model.safetensors"
    assert (run / weights).read_bytes() == (unbroken / weights).read_bytes()


@pytest.mark.slow
def test_a_signal_before_the_limit_requeues_and_the_end_is_that_of_an_unbroken_run(
    slurm: Cluster, tmp_path: Path
) -> None:
    """The controller fails the job's first call of each command, as one that restarts."""
    run, whole, tools = tmp_path / "broken", tmp_path / "whole", tmp_path / "tools"
    slow = "+callbacks.slow={_target_: tests.support.killer.Slow, seconds: 1}"
    tools.mkdir()
    for name in ("squeue", "scontrol"):
        script = f'#!/bin/sh\nonce={tools}/{name}-$1-$2\n[ -e "$once" ] || [ "$2" = hostnames ] || {{ touch "$once"; exit 1; }}\n'
        (tools / name).write_text(f'{script}exec {shutil.which(name)} "$@"\n')
        (tools / name).chmod(0o755)
    slurm.train(*slurm.overrides(12, run_dir=run), slow, f"cluster.setup=['export PATH={tools}:$PATH']")
    slurm.until(lambda: slurm.state(run)["step"] >= 3, 150, run)
    slurm.call("scancel", "--signal=USR1", "--batch", slurm.job_of(run))
    slurm.until(lambda: slurm.states(run) == ["requeued"], 30, run)
    assert {file.name.split("-")[1] for file in tools.glob("scontrol-*")} == {"show", "requeue"} and [
        *tools.glob("squeue-*")
    ]
    assert slurm.ended(run) == ["finished"]
    assert (run / "logs" / "02").is_dir()
    slurm.train(*slurm.here(12, run_dir=whole))
    assert_same(run, whole)


@pytest.mark.proof
def test_preemption_requeues_too(slurm: Cluster, tmp_path: Path) -> None:
    run, urgent, whole = (tmp_path / name for name in ("run", "urgent", "whole"))
    slow = "+callbacks.slow={_target_: tests.support.killer.Slow, seconds: 1}"
    more = {"checkpoint.every": 1, "cluster.exclusive": "true"}
    both, first = "+cluster.sbatch.nodelist='n1,n2'", "+cluster.sbatch.nodelist=n1"
    slurm.train(*slurm.overrides(15, run_dir=run, **more, **{"cluster.nodes": 2}), slow, both)
    slurm.until(lambda: slurm.state(run)["step"] >= 3, 150, run)
    slurm.train(*slurm.overrides(1, run_dir=urgent, **more, **{"cluster.partition": "urgent"}), first)
    assert slurm.ended(urgent) == ["finished"]
    assert slurm.ended(run) == ["finished"]
    assert (run / "logs" / "02").is_dir()
    slurm.train(*slurm.here(15, run_dir=whole, **{"checkpoint.every": 1, "cluster.processes": 2}))
    assert_same(run, whole)


@pytest.mark.slow
def test_a_cancelled_run_stays_cancelled_and_can_go_on(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = "+callbacks.slow={_target_: tests.support.killer.Slow, seconds: 1}"
    given = [*slurm.overrides(20, run_dir=run), slow]
    slurm.train(*given)
    slurm.until(lambda: slurm.state(run)["step"] >= 3, 150, run)
    assert "cancelled 1 run" in slurm.jobs("cancel", str(run))
    assert slurm.ended(run, 60) == ["cancelled"]
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped", "it had time to save"
    assert "submitted job" in slurm.train(*given).stdout
    assert slurm.ended(run) == ["finished"]


@pytest.mark.slow
def test_a_run_that_its_file_stops_is_not_requeued_and_can_go_on(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = "+callbacks.slow={_target_: tests.support.killer.Slow, seconds: 1}"
    slurm.train(*slurm.overrides(20, run_dir=run), slow)
    slurm.until(lambda: slurm.state(run)["step"] >= 3, 150, run)
    (run / "stop").touch()
    assert slurm.ended(run, 60) == ["stopped"]
    assert "(stop file)" in slurm.jobs("status", str(run)) and not (run / "stop").exists()
    assert "submitted job" in slurm.jobs("resubmit", str(run))
    assert slurm.ended(run) == ["finished"]


@pytest.mark.slow
def test_two_nodes_with_two_processes_each_train_as_four_processes_here(slurm: Cluster, tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    slurm.train(*slurm.overrides(run_dir=run, **{"cluster.nodes": 2, "cluster.processes": 4, "zero": 2}))
    slurm.train(*slurm.here(run_dir=alone, zero=2, **{"cluster.processes": 4}))
    assert slurm.ended(run) == ["finished"]
    assert metrics_of(run) == metrics_of(alone)
    assert len(list((run / "logs" / "01").glob("rank-*.out"))) == 4


@pytest.mark.slow
def test_cluster_local_inside_salloc_runs_on_its_nodes(slurm: Cluster, tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    allocation = ["salloc", "--nodes=2", "--cpus-per-task=2", "--ntasks-per-node=2", "--mem=2G"]
    train = [sys.executable, "-m", "psychocounsel.train"]
    done = slurm.run(*allocation, *train, *slurm.here(run_dir=run, **{"cluster.processes": 4}))
    assert "4 processes on CPU of allocation" in done.stderr and "finished at step 4 of 4" in done.stderr
    slurm.train(*slurm.here(run_dir=alone, **{"cluster.processes": 4}))
    assert metrics_of(run) == metrics_of(alone)
    assert len(list((run / "logs" / "01").glob("rank-*.out"))) == 4
    uneven = slurm.run(
        *allocation, *train, *slurm.here(run_dir=tmp_path / "x", **{"cluster.processes": 3}), check_code=2
    )
    assert "3 cannot be spread evenly over the 2 nodes" in uneven.stderr and not (tmp_path / "x").exists()
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 2, rank: 1}"
    broken = tmp_path / "broken"
    died = slurm.run(*allocation, *train, *slurm.here(run_dir=broken, **{"cluster.processes": 2}), kill, check_code=137)
    assert f"{broken} failed (rank 1, exit code 137)" in died.stderr


@pytest.mark.slow
def test_ctrl_c_inside_salloc_saves_and_the_same_command_goes_on(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = "+callbacks.slow={_target_: tests.support.killer.Slow, seconds: 0.3}"
    allocation = ["salloc", "--nodes=2", "--mem=2G"]
    command = [*allocation, sys.executable, "-m", "psychocounsel.train", *slurm.here(12, run_dir=run), slow]
    shell = subprocess.Popen(command, env={**os.environ, **slurm.environment}, start_new_session=True)
    slurm.until(lambda: slurm.state(run)["step"] >= 3, 150, run)
    os.killpg(shell.pid, signal.SIGINT)  # as a terminal does
    assert shell.wait(60) == 75
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
    slurm.run(*command)
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_an_evaluation_is_a_job_too_and_waits_for_its_model(slurm: Cluster, tmp_path: Path) -> None:
    trained, judged = tmp_path / "reward", tmp_path / "judged"
    slurm.train(*slurm.overrides(2, run_dir=trained, algo="reward"))
    given = ["cluster=slurm_cpu", "cluster.cpus_per_process=1", "limit=30", f"reward.path={trained}/model"]
    given += [f"after=[{trained}]", "cluster.nodes=2", f"run_dir={judged}"]
    done = cli("evaluate", *given, **slurm.environment)
    assert "\nsubmitted job " in done.stdout
    assert slurm.states(judged) == ["pending"]
    assert slurm.ended(judged) == ["finished"]
    cli("evaluate", f"reward.path={trained}/model", "limit=30", f"run_dir={tmp_path}/here", **slurm.environment)
    found, expected = (
        [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
        for folder in (judged, tmp_path / "here")
    )
    assert [line["id"] for line in found] == [line["id"] for line in expected]
    assert [line["chosen"] for line in found] == pytest.approx([line["chosen"] for line in expected], abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("requeue", [True, False])
def test_a_killed_rank_ends_the_attempt_and_is_named(requeue: bool, slurm: Cluster, tmp_path: Path) -> None:
    run, more = tmp_path / "run", {"cluster.nodes": 2, "cluster.processes": 4, "cluster.requeue": requeue}
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 2, rank: 3}"
    slurm.train(*slurm.overrides(run_dir=run, **more), kill)
    file = run / "logs" / "01" / "attempt.json"
    slurm.until(lambda: file.exists() and "verdict" in json.loads(file.read_text()), 90, run)
    told = json.loads(file.read_text())
    assert (told["rank"], told["code"], told["verdict"]) == (3, 137, "crashed")
    killed = "rank 3 on n2 was ended by SIGKILL, often for lack of memory: raise cluster.memory"
    reason = f"crashed at step 2 (exit code 137): {killed}"
    assert told["reason"].startswith(reason)
    failure = (run / "logs" / "01" / "failure.txt").read_text()
    assert failure.startswith(f"run: {reason}") and f"rank 3, the end of {run}/logs/01/rank-3.out:" in failure
    assert slurm.ended(run) == ["finished" if requeue else "failed"], "the next attempt, if any, went on"
    assert requeue or reason in slurm.jobs("status", str(run))


@pytest.mark.slow
def test_a_chain_waits_and_a_failing_parent_cancels_its_children(slurm: Cluster, tmp_path: Path) -> None:
    first, second = tmp_path / "sft", tmp_path / "dpo"
    slurm.train(*slurm.overrides(2, run_dir=first, algo="sft"))
    slurm.train(*slurm.overrides(2, run_dir=second, **{"model.path": first / "model", "after": f"[{first}]"}))
    assert slurm.states(second) == ["pending"]
    assert slurm.ended(second) == ["finished"]
    file = tmp_path / "broken"
    file.touch()
    parents, children = tmp_path / "parents", tmp_path / "children"
    fail = f"+callbacks.fail={{_target_: tests.support.killer.Fail, seed: 2, file: {file}}}"
    slurm.train("-m", *slurm.overrides(2, sweep_dir=parents), "seed=1,2", fail)
    slurm.train("-m", *slurm.overrides(2, sweep_dir=children), "seed=1,2", f"after=[{parents}]")
    assert slurm.ended(parents) == ["finished", "failed"]
    assert slurm.ended(children) == ["finished", "cancelled"], "index by index"


@pytest.mark.slow
def test_runs_share_jobs(slurm: Cluster, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    more = {
        "cluster.gpus_per_node": 4,
        "cluster.runs_per_job": 3,
        "cluster.runs_side_by_side": 2,
        "cluster.memory": "4G",
    }
    done = slurm.train("-m", *slurm.overrides(2, sweep_dir=sweep, **more), "seed=1,2,3,4")
    assert "array of 2" in done.stdout and "4 runs" in done.stdout
    assert slurm.ended(sweep) == ["finished"] * 4


_FAILS_ONCE = """#!/bin/bash
case "$*" in *"attempt end"*) if rm {flag} 2>/dev/null; then echo "No space left on device" >&2; exit 1; fi ;; esac
exec {python} "$@"
"""


@pytest.mark.slow
def test_an_end_that_cannot_be_recorded_ends_neither_the_other_runs_of_a_job_nor_its_requeue(
    slurm: Cluster, tmp_path: Path
) -> None:
    sweep, python, flag = tmp_path / "sweep", tmp_path / "python", tmp_path / "flag"
    python.write_text(_FAILS_ONCE.format(flag=flag, python=sys.executable))
    python.chmod(0o755)
    flag.touch()
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 1, rank: 0}"
    more = {"cluster.runs_per_job": 2, "cluster.python": python}
    slurm.train("-m", *slurm.overrides(2, sweep_dir=sweep, **more), "seed=1,2", kill)
    assert slurm.ended(sweep) == ["finished"] * 2
    assert not flag.exists() and len(list(sweep.glob("*/logs/02"))) == 2
    (log,) = sweep.glob("submissions/0001/slurm-*.out")
    assert "error: the end of attempt 01 of " in log.read_text()


@pytest.mark.slow
def test_segments_go_on_where_nothing_is_requeued(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = "+callbacks.slow={_target_: tests.support.killer.Slow, seconds: 1}"
    slurm.train(*slurm.overrides(15, run_dir=run, **{"cluster.requeue": "false", "cluster.segments": 3}), slow)
    slurm.until(lambda: slurm.state(run)["step"] >= 3, 150, run)
    jobs = json.loads((run / "submissions" / "0001" / "submission.json").read_text())["jobs"]
    assert len(jobs) == 3
    slurm.call("scancel", "--signal=USR1", "--batch", jobs[0])
    assert slurm.ended(run) == ["finished"]
    assert (run / "logs" / "02").is_dir() and not (run / "logs" / "03").exists(), "the third had nothing to do"


@pytest.mark.slow
def test_a_job_uploads_what_its_tracker_stored_when_it_ends_and_not_before_a_requeue(
    slurm: Cluster, tmp_path: Path
) -> None:
    good, bad, file = tmp_path / "good", tmp_path / "bad", tmp_path / "broken"
    file.touch()
    fail = f"+callbacks.fail={{_target_: tests.support.killer.Fail, seed: 2, file: {file}}}"
    given = {"tracker": "wandb", "tracker.sync": "true"}
    with serving(answer_of_wandb) as server:
        stored = {"WANDB_MODE": "offline", "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": server.address}
        slurm.train(*slurm.overrides(2, run_dir=good, **given), **stored)
        slurm.train(*slurm.overrides(2, run_dir=bad, seed=2, **given), fail, **stored)
        assert slurm.ended(good) + slurm.ended(bad) == ["finished", "failed"]
        for run, code in ((good, "0:0"), (bad, "1:0")):
            job = slurm.job_of(run)
            slurm.until(lambda job=job: not slurm.call("squeue", "-h", "-j", job), 120, run)
            assert f"ExitCode={code}" in slurm.call("scontrol", "show", "job", job)
        names = {payload["variables"].get("name") for path, payload in server.asked if path == "/graphql"}
    assert {(run / "wandb" / "run_id").read_text().strip() for run in (good, bad)} <= names
    assert slurm.jobs("logs", str(good)).endswith("\nuploaded 1 run\n[finished]\n")
    assert "uploaded" not in (bad / "logs" / "01" / "rank-0.out").read_text()
    assert "\nuploaded 2 runs\n[failed] " in slurm.jobs("logs", str(bad))


@pytest.mark.slow
def test_a_chain_that_ends_unfinished_starts_nothing_that_waits_for_it(slurm: Cluster, tmp_path: Path) -> None:
    run, later = tmp_path / "run", tmp_path / "later"
    slow = "+callbacks.slow={_target_: tests.support.killer.Slow, seconds: 1}"
    chain = {"cluster.requeue": "false", "cluster.segments": 2}
    slurm.train(*slurm.overrides(60, run_dir=run, **chain), slow)
    slurm.train(*slurm.overrides(2, run_dir=later), f"after=[{run}]")
    jobs = json.loads((run / "submissions" / "0001" / "submission.json").read_text())["jobs"]
    for step, job in zip((2, 4), jobs, strict=True):
        slurm.until(lambda step=step: slurm.state(run)["step"] >= step, 150, run)
        slurm.call("scancel", "--signal=USR1", "--batch", job)
        slurm.until(lambda job=job: not slurm.call("squeue", "-h", "-j", job, "-o", "%T"), 60, run)
    slurm.until(lambda: slurm.states(later) == ["cancelled"], 60, later)
    assert slurm.states(run) == ["stopped"] and not (later / "summary.json").exists()


@pytest.mark.slow
def test_servers_run_beside_training_and_one_may_die(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    serve = "echo $CUDA_VISIBLE_DEVICES >> {run_dir}/gpus; exec python3 -m http.server {port}"
    server = f"cluster.servers={{command: [bash, -c, '{serve}'], health: /, start_minutes: 1, per_node: 2}}"
    slow = "+callbacks.slow={_target_: tests.support.killer.Slow, seconds: 1}"
    slurm.train(
        *slurm.overrides(
            15, run_dir=run, **{"cluster.server_nodes": 2, "cluster.gpus_per_node": 2, "cluster.cpus_per_process": 2}
        ),
        server,
        slow,
    )
    files = run / "servers"
    slurm.until(lambda: slurm.state(run)["step"] >= 1, 90, run)
    assert len(list(files.glob("*.json"))) == 4
    assert sorted((run / "gpus").read_text().split()) == ["0", "0", "1", "1"], "each has a GPU of its node for itself"
    port = json.loads((files / "1.json").read_text())["address"].rpartition(":")[2]
    slurm.call("pkill", "-f", f"http.server {port}")
    slurm.until(lambda: len(list(files.glob("*.json"))) == 3, 20, run)
    assert slurm.ended(run) == ["finished"]
    slurm.until(lambda: not list(files.glob("*.json")), 20)


@pytest.mark.slow
def test_servers_that_end_at_their_start_end_the_job(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    server = "cluster.servers={command: [bash, -c, 'exit 7'], health: /, start_minutes: 20, per_node: 1}"
    slurm.train(*slurm.overrides(run_dir=run, **{"cluster.server_nodes": 1}), server)
    assert slurm.ended(run, 120) == ["failed"]
    said = slurm.jobs("status", str(run))
    assert "server 0 has ended (exit code 7); see servers-" in said, said


@pytest.mark.slow
def test_what_is_edited_after_submission_changes_no_job(slurm: Cluster, tmp_path: Path) -> None:
    run, own = tmp_path / "run", tmp_path / "own_callback.py"
    own.write_text(_OWN.format("Path(run.dir / 'seen').touch()"))
    mark, hold = "+callbacks.own={_target_: own_callback.Own}", "+cluster.sbatch.hold=true"
    slurm.train(*slurm.overrides(2, run_dir=run), mark, hold, cwd=tmp_path)
    own.write_text(_OWN.format("raise RuntimeError('edited')"))
    slurm.call("scontrol", "release", slurm.job_of(run))
    assert slurm.ended(run) == ["finished"]
    assert (run / "seen").exists()
    again = tmp_path / "again"
    slurm.train(*slurm.overrides(2, run_dir=again), mark, hold, cwd=tmp_path)
    slurm.jobs("cancel", str(again))
    own.write_text(_OWN.format("Path(run.dir / 'mended').touch()"))
    cli("jobs", "resubmit", str(again), "code=current", cwd=tmp_path, **slurm.environment)
    slurm.call("scontrol", "release", slurm.job_of(again))
    assert slurm.ended(again) == ["finished"]
    assert (again / "mended").exists()


_OWN = """
from pathlib import Path
from psychocounsel.engine.callbacks import Callback

class Own(Callback):
    def on(self, event, step, run):
        {}
"""
