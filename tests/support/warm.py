"""Process that forks psychocounsel commands for tests after it has imported their libraries.

Starting an interpreter and importing torch, transformers and DeepSpeed takes longer than most training runs of the tests,
and importing pandas, SciPy and the commands takes longer than most evaluations.
`Warm` is a client of a process that has done these imports and waits for requests. For each request this process forks a
child that becomes `python -m psychocounsel.MODULE ARGUMENTS`, with the working directory, environment and output files of
the request. The ranks of a run are forked from a multiprocessing fork server, as in production, but here the fork server
already runs.

The worker processes of a test session share one such process. It starts while they collect the tests, or when the first
test needs it, and ends with the session.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import partial
from multiprocessing import forkserver, process, resource_tracker
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class Warm:
    """Client of the session's waiting process, which runs commands with `threads` OpenMP threads.

    `session` is the folder that conftest.py creates for the test session. Its name is the session's process number.
    """

    def __init__(self, threads: str, session: Path) -> None:
        self.folder, self.address = session, begin(threads, session)
        end = time.monotonic() + 300
        while not Path(self.address).exists():
            assert time.monotonic() < end, "the process that forks the commands of tests does not start"
            time.sleep(0.05)

    def run(
        self, module: str, arguments: list[str], cwd: Path | None, environment: dict[str, str], seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m psychocounsel.MODULE` and return its exit code and output, like `subprocess.run`.

        Raises:
            subprocess.TimeoutExpired: after `seconds`; the process is killed.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            files = [Path(place, name) for name in ("stdout", "stderr")]
            for file in files:
                file.touch()
            process = self.start(module, arguments, cwd, environment, list(map(str, files)))
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            stdout, stderr = (file.read_text(errors="replace") for file in files)
            return subprocess.CompletedProcess([module, *arguments], code, stdout, stderr)

    def start(
        self, module: str, arguments: list[str], cwd: Path | None, environment: dict[str, str], output: list[str]
    ) -> "Forked":
        """Start `python -m psychocounsel.MODULE`; `output` are the paths for standard output and standard error."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.address)
        request = {
            "module": module,
            "arguments": arguments,
            "cwd": str((cwd or Path()).resolve()),
            "environment": environment,
            "output": output,
        }
        client.sendall(json.dumps(request).encode() + b"\n")
        return Forked(client)


class Forked:
    """A running command, with the part of the interface of `subprocess.Popen` that tests use."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._answers = client.makefile()
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def wait(self, seconds: float | None = None) -> int:
        if self.returncode is None:
            self._client.settimeout(seconds)
            try:
                self.returncode = int(self._answers.readline())
            except TimeoutError as error:
                raise subprocess.TimeoutExpired("a forked command", seconds or 0) from error
            self._client.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.send_signal(signal.SIGKILL)


def begin(threads: str, session: Path) -> str:
    """Start the session's process with this number of threads, unless it already runs, and return its socket's path."""
    address = str(session / f"{threads}-threads")
    try:
        open(f"{address}.begun", "x").close()
    except FileExistsError:
        return address
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    command = [sys.executable, "-m", "tests.support.warm", address, session.name]
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **silent)
    return address


# -- the waiting process


def serve(address: str, session: int) -> None:
    """Import the libraries, then answer requests until the process with the number `session` has ended."""
    from psychocounsel.cluster.local_ranks import PRELOAD
    from tests.support.preloads import load_for_commands

    multiprocessing.set_forkserver_preload([*PRELOAD, "tests.support.rank_preloads"])
    forkserver.ensure_running()
    load_for_commands()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children are reaped without a wait
    try:
        ended = os.pidfd_open(session)
    except ProcessLookupError:  # a session of a few tests ends before the libraries are imported
        return
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        os.rename(f"{address}.new", address)  # clients see the socket only when it accepts connections
        while True:
            ready, _, _ = select.select([listener, ended], [], [])
            if ended in ready:
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run the command in a child, send its process number and its exit code, and end this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(request)
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # the test may have closed the connection after its time limit
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """Run the command in this process as `python -m` would, and end the process with its exit code."""
    os.setsid()
    os.chdir(request["cwd"])
    process.ORIGINAL_DIR = request["cwd"]
    os.environ.clear()
    os.environ.update(request["environment"])
    _redirect(*request["output"])
    sys.path[:1] = [request["cwd"], *filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))]
    sys.path.append(str(ROOT))
    sys.argv = [f"psychocounsel/{request['module']}.py", *request["arguments"]]
    _share_fork_server(request["output"], request["environment"])
    sys.modules.pop(f"psychocounsel.{request['module']}", None)  # or runpy would warn that it runs twice
    code: Any = 1
    try:
        runpy.run_module(f"psychocounsel.{request['module']}", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _redirect(stdout: str, stderr: str) -> None:
    for number, file in ((1, stdout), (2, stderr)):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)


def _share_fork_server(output: list[str], environment: dict[str, str]) -> None:
    """Fork ranks from the fork server of the waiting process, with the output and environment of the command."""
    from psychocounsel.cluster import local_ranks
    from tests.support import warm  # this module runs as __main__, but ranks unpickle the function by this name

    server = forkserver._forkserver  # type: ignore[attr-defined]
    # The fork server is not a child of this process, so the original function could not wait for it.
    server.ensure_running = forkserver.ensure_running = resource_tracker.ensure_running
    local_ranks.run_rank = partial(warm.rank, output, environment, local_ranks.run_rank)


def rank(output: list[str], environment: dict[str, str], run_rank: Any, *arguments: Any) -> None:
    """Run one rank with its standard output and standard error redirected to the files in `output`."""
    _redirect(*output)
    os.environ.update(environment)
    run_rank(*arguments)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
