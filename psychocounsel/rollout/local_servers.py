"""Rollout servers on this machine: rank 0 of a run starts them, and they end with the run."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from psychocounsel.errors import UserError, words
from psychocounsel.remote.server_access import free_port
from psychocounsel.rundir.paths import RunDir

_MOST_RESTARTS = 5  # of each server in a run
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5.0


class LocalServers:
    """Processes of `psychocounsel.rollout.server`, one for each entry of `gpus`, its CUDA_VISIBLE_DEVICES ("" on CPU)."""

    def __init__(self, run_dir: Path, gpus: Sequence[str], start_minutes: float) -> None:
        self.run_dir, self.start_minutes = run_dir, start_minutes
        self.servers = [_Server(number, visible) for number, visible in enumerate(gpus)]

    def ready(self) -> list[str]:
        """Return the addresses of answering servers, after restarting those that do not answer.

        Raises:
            UserError: if no server answers.
        """
        dead = [server for server in self.servers if not server.answers() and server.starts <= _MOST_RESTARTS]
        for server in dead:
            if server.starts:
                print(
                    f"rollout: server {server.number} does not answer; restarting it ({self._log(server)})",
                    flush=True,
                )
            server.end()
            self._start(server)
        deadline = time.monotonic() + 60 * self.start_minutes
        while time.monotonic() < deadline and any(server.runs() and not server.answers() for server in dead):
            time.sleep(_POLL_SECONDS)
        live = [server.address for server in self.servers if server.answers()]
        if not live:
            raise UserError(f"rollout=vllm_server: no server could be started; {self._last_words()}")
        return live

    def _log(self, server: "_Server") -> Path:
        return RunDir(self.run_dir).server_log(server.number)

    def _start(self, server: "_Server") -> None:
        server.starts += 1
        port = free_port()  # no other program takes it as a client while the model loads
        server.address = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if name not in _OF_TRAINING}
        if server.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = server.gpus
        self._log(server).parent.mkdir(parents=True, exist_ok=True)
        with open(self._log(server), "ab") as log:
            command = [sys.executable, "-m", "psychocounsel.rollout.server", str(self.run_dir), str(port)]
            server.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def _last_words(self) -> str:
        log = self._log(self.servers[0])
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        errors = [line for line in lines if line.lower().startswith("error")]  # libraries may write on after it
        return f"the last line of {log} is: {words([*lines, *errors][-1]) if lines else '(nothing)'}"


# Variables of a rank's process group. A server must not inherit them, because its engine forms its own group.
_OF_TRAINING = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "VLLM_ENABLE_V1_MULTIPROCESSING")


class _Server:
    def __init__(self, number: int, gpus: str) -> None:
        self.number, self.gpus, self.starts, self.address = number, gpus, 0, ""
        self.process: subprocess.Popen[bytes] | None = None

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def answers(self) -> bool:
        if not self.runs():
            return False
        request = httpx.stream("GET", f"{self.address}/health", timeout=10, trust_env=False)
        # The body is not read, because it may have any size.
        with contextlib.suppress(httpx.HTTPError), request as answer:
            return answer.status_code == 200
        return False

    def end(self) -> None:
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_SECONDS)
        self.process = None


# GPUs of these servers: those after the GPUs of the training processes


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def gpus_of_servers(visible: Sequence[str], training: int, count: int, per_server: int) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES of `count` servers of `per_server` GPUs, taken after the first `training` ones of `visible`.

    Raises:
        UserError: if there are too few GPUs.
    """
    if (spare := len(visible) - training) < count * per_server:
        raise UserError(too_few_gpus(count, per_server, spare, training))
    return [
        ",".join(visible[first : first + per_server])
        for first in range(training, training + count * per_server, per_server)
    ]


def too_few_gpus(count: int, per_server: int, spare: int, training: int, nodes: int = 1) -> str:
    """Return the error message for `count` servers of `per_server` GPUs that do not fit on the `spare` GPUs of rank 0's node.

    `training` GPUs of each of `nodes` nodes train.
    """
    needed, left = count * per_server, training + spare - count * per_server
    ways = [f"cluster.processes={left * nodes}"] if left > 0 else []
    ways += ["cluster.server_nodes=1 (cluster=slurm)", "rollout=vllm, which shares the GPUs with training"]
    return (
        f"rollout=vllm_server: rollout.servers={count} with rollout.tensor_parallel={per_server} need {needed} of a node's GPUs, "
        f"but only {max(0, spare)} are left beside the {training} that train: use {', '.join(ways[:-1])} or {ways[-1]}"
    )
