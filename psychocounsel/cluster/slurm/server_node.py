"""Commands of the batch script for servers on their own nodes next to training.

`python -m psychocounsel.cluster.slurm.server_node run RUN` starts `cluster.servers.command`, waits until the server is
healthy, and keeps its address in `RUN/servers/N.json` while it lives. `RUN/servers/N.ended` tells how it ended, unless
it was asked to. `... wait RUN COUNT` returns when COUNT servers are ready.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import reduce
from pathlib import Path

from psychocounsel.cluster.slurm.queue import call
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.remote.server_access import free_port
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run import ended_servers, job_servers, note_ended_server, note_ready_server, this_job
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.storage.files import with_noun
from psychocounsel.storage.modes import let_nobody_else_write

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 10.0


def run(run_dir: Path) -> int:
    """Run one server until it ends or is asked to stop; return 0 after a stop request, otherwise its exit code or 1."""
    refuse_untrusted_run(run_dir, whole=False)
    settings = read_config(run_dir).cluster.servers
    number = int(os.environ.get("SLURM_PROCID", 0))
    port = free_port()
    known = {"{port}": str(port), "{run_dir}": str(run_dir.absolute()), "{python}": sys.executable}
    command = [
        reduce(lambda text, name: text.replace(name, known[name]), known, str(part)) for part in settings.command
    ]
    file = RunDir(run_dir).server(number)
    file.parent.mkdir(exist_ok=True)
    server = subprocess.Popen(command, start_new_session=True, env={**os.environ, **_own_gpus(settings.per_node)})
    stop_requested = False

    def end(*_: object) -> None:
        nonlocal stop_requested
        stop_requested = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        if _is_ready(server, f"http://127.0.0.1:{port}{settings.health}", 60 * settings.start_minutes):
            note_ready_server(run_dir, number, f"http://{_host()}:{port}")
            print(f"server {number} is ready at {_host()}:{port}", flush=True)
            server.wait()
        ending = _end_words(server, stop_requested, settings.start_minutes)
        print(f"server {number} {ending}", flush=True)
        if not stop_requested:
            note_ended_server(run_dir, number, ending)
        return 0 if stop_requested else server.poll() or 1
    finally:
        file.unlink(missing_ok=True)
        _end(server)


def _end_words(server: "subprocess.Popen[bytes]", stop_requested: bool, minutes: float) -> str:
    """Return how a server ended: on request, by itself, or because it was not ready in time and is now stopped."""
    if stop_requested:
        return "has ended"
    if server.poll() is None:
        return f"was not ready within cluster.servers.start_minutes={minutes:g} and is stopped"
    return f"has ended (exit code {server.poll()})"


def _own_gpus(per_node: int) -> dict[str, str]:
    """Return this server's share of the GPUs that SLURM gave to all servers of the node; empty for one server or without GPUs."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    share, place = len(visible) // per_node, int(os.environ.get("SLURM_LOCALID", 0))
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[place * share :][:share])} if share and per_node > 1 else {}


def _is_ready(server: "subprocess.Popen[bytes]", url: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # for a proxy, 127.0.0.1 is another machine
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, urllib.error.URLError), direct.open(url, timeout=5) as answer:
            if answer.status == 200:
                return True
        time.sleep(_POLL_SECONDS)
    return False


def _end(server: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE_SECONDS)
            return


def _host() -> str:
    """Return this node's address from SLURM, because at some sites names of nodes do not resolve."""
    node = os.environ.get("SLURMD_NODENAME")
    if node:
        with contextlib.suppress(UserError):  # SLURM does not answer
            if match := re.search(r"NodeAddr=(\S+)", call("scontrol", "show", "node", node)):
                return match[1]
    return socket.gethostname()


def wait(run_dir: Path, count: int) -> None:
    """Wait until `count` servers are ready.

    Raises:
        UserError: if one has ended, or they are not ready after `cluster.servers.start_minutes`.
    """
    minutes = read_config(run_dir).cluster.servers.start_minutes
    deadline = time.monotonic() + 60 * minutes + _GRACE_SECONDS
    while len(job_servers(run_dir)) < count:
        for number, ending in ended_servers(run_dir).items():
            raise UserError(f"server {number} {ending}; see servers-{this_job()}-{number}.out next to the batch script")
        if time.monotonic() > deadline:
            raise UserError(
                f"{with_noun(count - len(job_servers(run_dir)), 'server')} of {count} not ready after "
                f"cluster.servers.start_minutes={minutes}; "
                "see servers-*.out next to the batch script"
            )
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    let_nobody_else_write()
    action, folder, *rest = sys.argv[1:]
    try:
        if action == "run":
            sys.exit(run(Path(folder)))
        wait(Path(folder), int(rest[0]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
