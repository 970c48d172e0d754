"""Real SLURM cluster of four nodes on this machine. Tests that need it are skipped if SLURM is not installed."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import ROOT, cli

_SCRIPTS = ROOT / "tests" / "slurm_dev"
_NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")


class Cluster:
    """Client of the test cluster: submits small runs and reads their status."""

    def __init__(self, environment: dict[str, str], model: Path) -> None:
        self.environment, self.model = environment, model

    def overrides(self, steps: int = 4, **more: Any) -> list[str]:
        """Return the overrides of a run that takes seconds: a randomly initialised model, eight pairs per step."""
        values = {
            "model": "local",
            "model.path": self.model,
            "max_steps": steps,
            "global_batch_size": 8,
            "data.limit": 80,
            "eval.every": 0,
            "eval.limit": 8,
            "cluster": "slurm_cpu",
            "cluster.cpus_per_process": 1,
            "cluster.stop_before_limit": "1m",
            **more,
        }
        return [f"{key}={value}" for key, value in values.items()]

    def here(self, steps: int = 4, **more: Any) -> list[str]:
        """Return the overrides of the same run without SLURM, also with one thread."""
        given = self.overrides(steps, cluster="local", **more)
        others = ("cluster.cpus_per_process", "cluster.stop_before_limit")
        return [*(text for text in given if not text.startswith(others)), "cluster.device=cpu", "cluster.threads=1"]

    def train(
        self, *arguments: str, check_code: int | None = 0, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return cli("train", *arguments, check_code=check_code, cwd=cwd, **{**self.environment, **environment})

    def jobs(self, *arguments: str, check_code: int | None = 0, **environment: str) -> str:
        done = cli("jobs", *arguments, check_code=check_code, **{**self.environment, **environment})
        return done.stdout + done.stderr

    def call(self, *command: str) -> str:
        return self.run(*command).stdout

    def run(self, *command: str, check_code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == check_code, done.stdout + done.stderr
        return done

    def states(self, folder: Path) -> list[str]:
        """Return the state of each run in the order in which `jobs status` lists them."""
        lines = self.jobs("status", str(folder)).split("\n\n")[0].splitlines()[1:]
        return [line.split()[1] if line.split()[1] != "not" else "not submitted" for line in lines]

    def until(self, what: Callable[[], bool], seconds: float = 120, folder: Path | None = None) -> None:
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                outputs = sorted(folder.glob("**/*.out")) if folder else []
                raise AssertionError(
                    "\n".join(f"{path}:\n{path.read_text()}" for path in outputs) or "nothing happened"
                )
            time.sleep(0.3)

    def ended(self, folder: Path, seconds: float = 150) -> list[str]:
        """Wait until no run is pending or running, and return the states.

        `jobs status` takes much more CPU time than `squeue`, and the jobs need the cores. So it runs only when the queue
        has changed, or three seconds after its last call.
        """
        live = {"running", "pending", "requeued"}
        seen, asked, states = "", 0.0, list[str]()

        def is_over() -> bool:
            nonlocal seen, asked, states
            queue = self.call("squeue", "--noheader", "--array", "--format=%i %T")
            if queue == seen and time.monotonic() < asked + 3:
                return False
            seen, states, asked = queue, self.states(folder), time.monotonic()
            return not live & set(states)

        self.until(is_over, seconds, folder)
        return states

    def state(self, run_dir: Path) -> dict[str, Any]:
        """Return the content of a run's `state.json`, or step 0 if the file does not exist yet."""
        file = run_dir / "state.json"
        return json.loads(file.read_text()) if file.exists() else {"step": 0, "phase": ""}

    def job_of(self, run_dir: Path) -> str:
        return str(json.loads(sorted(run_dir.glob("submissions/*/submission.json"))[-1].read_text())["jobs"][-1])


def start(model: Path) -> Iterator[Cluster]:
    if missing := [name for name in _NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]:
        pytest.skip(f"no SLURM here ({missing[0]} is missing): apt-get install slurm-wlm munge")
    folder = tempfile.mkdtemp(prefix="slurm-")  # tmp_path is too long for the paths of sockets
    environment = {
        "SLURM_DEV_DIR": folder,
        "SLURM_DEV_PORT": str(_free_ports(5)),
        "SLURM_CONF": f"{folder}/slurm.conf",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    started = subprocess.run([_SCRIPTS / "start.sh"], env={**os.environ, **environment}, capture_output=True, text=True)
    try:
        assert started.returncode == 0, started.stderr
        yield Cluster(environment, model)
    finally:
        subprocess.run(
            [_SCRIPTS / "stop.sh"], env={**os.environ, **environment, "SLURM_DEV_KEEP": "0"}, capture_output=True
        )


def _free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports."""
    for first in range(26800 + os.getpid() % 400 * 10, 32000, count):  # concurrent tests start at other ports
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")
