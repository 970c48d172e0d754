"""A cluster class in a user's folder works with training, sweeps and `jobs`. Local runs are tested here, too."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.cluster.states import rows
from psychocounsel.errors import USER_ERROR
from psychocounsel.rundir.owner import ownership
from psychocounsel.rundir.run_config import write_config, write_job
from tests.support.composed import check, compose
from tests.support.harness import cli

_YAML = "_target_: own_cluster.Background\nthreads: 1\n"
_PYTHON = '''
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from psychocounsel.cluster.base import Cluster, QueueState
from psychocounsel.cluster.job import Submission
from psychocounsel.cluster.local_ranks import worker_environment
from psychocounsel.engine.callbacks import Callback
from psychocounsel.rundir.run import next_number
from psychocounsel.settings.schema import option


@dataclass
class Background(Cluster):
    """Starts every job in the background of this machine and leaves."""

    threads: int = option(1, at_least=1)

    def gpus(self):
        return 0

    def process_count(self):
        return 1

    def submit(self, jobs):
        for job in jobs:
            if not job.skip:
                self._start(job)
        return Submission(0, [None] * len(jobs))

    def queue_states(self, runs):
        pids = {run: int((run / "pid").read_text()) for run in runs if (run / "pid").exists()}
        return {run: QueueState(f"pid-{pid}", "running" if lives(pid) else "ended") for run, pid in pids.items()}

    def cancel(self, runs):
        for run in runs:
            os.kill(int((run / "pid").read_text()), signal.SIGTERM)

    def resubmit(self, jobs, code):
        for job in jobs:
            self._start(job)

    def _start(self, job):
        number = next_number(job.run_dir)
        attempt = job.files.attempt(number)
        attempt.path.mkdir(parents=True)
        shared = worker_environment(job, number, f"file://{attempt.path}/store", str(self.threads), gpu=False)
        environment = {**os.environ, **shared, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        command = [sys.executable, "-m", "psychocounsel.worker", str(job.run_dir)]
        with open(attempt.output(0), "wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        (job.run_dir / "pid").write_text(str(process.pid))


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class WaitAtTwo(Callback):
    """Step 2 ends when the test has done what it does meanwhile."""

    def on(self, event, step, run):
        while event == "step_end" and step == 2 and not (run.dir / "go").exists():
            time.sleep(0.05)
'''


def until(what: Callable[[], bool], run: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not what():
        outputs = "".join(path.read_text() for path in run.glob("**/rank-0.out"))
        assert time.monotonic() < end, outputs
        time.sleep(0.2)


@pytest.fixture
def my_folder(tmp_path: Path) -> Path:
    (tmp_path / "my" / "cluster").mkdir(parents=True)
    (tmp_path / "my" / "cluster" / "mine.yaml").write_text(_YAML)
    (tmp_path / "my" / "own_cluster.py").write_text(_PYTHON)
    return tmp_path / "my"


@pytest.mark.slow
def test_a_users_own_cluster_trains_is_watched_cancelled_and_resubmitted(
    my_folder: Path, tmp_path: Path, small_model: Path, own_environment: None
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = [
        "--config-dir",
        str(my_folder),
        "model=local",
        f"model.path={small_model}",
        "cluster=mine",
        "data.limit=80",
    ]
    given += ["global_batch_size=8", "eval.every=0", "eval.limit=8"]
    waits = "+callbacks.wait._target_=own_cluster.WaitAtTwo"
    refused = cli("train", *given, "cluster.threads=0", "max_steps=1", check_code=USER_ERROR, cwd=tmp_path).stderr
    assert refused.startswith("error: cluster.threads=0")
    run = tmp_path / "run"
    cli("train", *given, "max_steps=4", waits, "run_dir=run", cwd=tmp_path)
    until(lambda: (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) == 3, run)
    shown = cli("jobs", "status", str(run), cwd=elsewhere).stdout  # config.yaml has the path of its code
    pid = (run / "pid").read_text()
    assert "running" in shown.splitlines()[1] and f"pid-{pid}" in shown.splitlines()[1] and "2/4" in shown
    refused = cli("jobs", "resubmit", str(run), "0", check_code=USER_ERROR, cwd=elsewhere).stderr
    assert refused == "error: index 0 is running: it cannot be resubmitted\n"

    assert cli("jobs", "cancel", str(run), cwd=elsewhere).stdout == "cancelled 1 run\n"
    (run / "go").touch()
    until(lambda: not rows(run)[0].is_live, run)
    assert rows(run)[0].state == "stopped"
    assert cli("jobs", "cancel", str(run), cwd=elsewhere).stdout == "nothing waits or runs\n"

    cli("jobs", "resubmit", str(run), "cluster.threads=2", cwd=elsewhere)
    assert OmegaConf.load(run / "config.yaml").cluster.threads == 2
    until(lambda: rows(run)[0].state == "finished", run)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [0, 1, 2, 3, 4]
    assert [line["attempt"] for line in steps] == [1, 1, 1, 2, 2]


@pytest.mark.slow
def test_a_sweep_on_a_users_own_cluster(my_folder: Path, tmp_path: Path, small_model: Path) -> None:
    given = ["--config-dir", str(my_folder), "model=local", f"model.path={small_model}", "data.limit=80", "max_steps=1"]
    given += ["global_batch_size=8", "eval.every=0", "eval.limit=8", "sweep_dir=sweep"]
    (my_folder / "sweep").mkdir()
    (my_folder / "sweep" / "mixed.yaml").write_text("pair: {cluster: [mine, local], seed: [1, 2]}\n")
    mixed = cli("train", *given, "sweep=mixed", check_code=USER_ERROR, cwd=tmp_path).stderr
    assert mixed.startswith("error: a sweep has one cluster")
    cli("train", "-m", *given, "cluster=mine", "seed=1,2", cwd=tmp_path)
    until(lambda: [row.state for row in rows(tmp_path / "sweep")] == ["finished", "finished"], tmp_path / "sweep")
    again = cli("train", "-m", *given, "cluster=mine", "seed=1,2", cwd=tmp_path)
    assert again.returncode == 0 and all(row.attempts == 1 for row in rows(tmp_path / "sweep"))


def test_local_runs_have_no_queue_and_jobs_says_what_to_do(tmp_path: Path) -> None:
    write_config(tmp_path, check(compose(["algo=dpo", f"run_dir={tmp_path}"])))
    write_job(tmp_path, "psychocounsel.train", 0, [])
    assert cli("jobs", "cancel", str(tmp_path)).stdout == "nothing waits or runs\n"
    refused = cli("jobs", "resubmit", str(tmp_path), check_code=USER_ERROR).stderr
    assert "cluster=local, which has no queue: give its command again" in refused and refused.count("\n") == 1
    with ownership(tmp_path):
        refused = cli("jobs", "cancel", str(tmp_path), check_code=USER_ERROR).stderr
    assert f"`touch {tmp_path}/stop`" in refused and refused.count("\n") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_asking_about_a_strangers_run_executes_none_of_their_code(tmp_path: Path) -> None:
    """The configuration names a module in its folder that would write a file if it was imported."""
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    cluster = {"_target_": "theirs.Theirs"}
    (run / "config.yaml").write_text(OmegaConf.to_yaml({"cluster": cluster, "code_path": [str(tmp_path)]}))
    (run / "job.json").write_text(json.dumps({"module": "psychocounsel.train", "index": 0, "after": []}))
    os.chown(run / "config.yaml", 12345, -1)
    result = cli("jobs", "status", str(run), check_code=USER_ERROR)
    assert result.stderr.count("\n") == 1 and "belongs to another user" in result.stderr
    assert not (tmp_path / "ran").exists()
    os.chown(run / "config.yaml", os.getuid(), -1)
    assert "you have not started" in cli("jobs", "status", str(run)).stderr and not (tmp_path / "ran").exists()
    cli("jobs", "status", str(run), check_code=USER_ERROR, PSYCHOCOUNSEL_TRUST=str(run))
    assert (tmp_path / "ran").exists(), "or the first half would show nothing"
