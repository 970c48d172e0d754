"""Processes of one job on this machine: start them, forward stop requests, wait, and end all if one fails."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from psychocounsel.cluster.job import Job
from psychocounsel.cluster.rank import run_rank
from psychocounsel.errors import CONTINUE_LATER, controlled
from psychocounsel.remote.hub import cache_directories
from psychocounsel.rundir.paths import AttemptDir

# Signals that a launcher forwards to its processes.


@contextmanager
def passed_on(send: Callable[[int], None], message: str) -> Iterator[list[int]]:
    """In this block, the first SIGINT, SIGTERM or SIGUSR1 is forwarded as a stop request (SIGTERM), later ones as SIGKILL.

    The first one prints `message`. Yields the list of received signals.
    """
    came: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        came.append(number)
        if len(came) == 1:
            if sys.stderr.isatty():
                controlled(sys.stderr).write("\r\033[K")  # clears the progress bar of a rank on this line
            print(f"{message} (repeat to stop at once)", file=sys.stderr, flush=True)
        send(signal.SIGTERM if len(came) == 1 else signal.SIGKILL)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# Start and end of the processes.

_GRACE_SECONDS = 20.0  # time for the other ranks to end in order after one has failed
_GRACE_AFTER_KILL = 3.0  # the same after a kill, when the others can only fail
PRELOAD = ("psychocounsel.engine.preload", "psychocounsel.commands.application")  # modules that ranks import
_forked_with: list[dict[str, str]] = []  # environment of the process that ranks are forked from, if it exists


def run_ranks(
    run_dir: Path,
    count: int,
    environment: dict[str, str],
    attempt: AttemptDir,
    gpus: bool,
    when_stopped: str,
    preload: Sequence[str],
) -> tuple[int, int]:
    """Run `count` processes, with this process's environment, `environment` and their rank.

    Rank 0 writes to the terminal, the others to files of `attempt`. Signals are forwarded as stop requests, and the first
    one prints `when_stopped`. Returns the exit code and number of the rank that failed first (0, 0 if none failed).
    """
    context, ranks = _context(environment, gpus, preload), list[BaseProcess]()

    def send(number: int) -> None:
        if not ranks:
            raise _NothingBegan
        _send(ranks, number)

    try:
        with passed_on(send, when_stopped) as requests:
            for rank in range(count):
                ranked = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                output = str(attempt.output(rank)) if rank else None
                process = context.Process(target=run_rank, args=(str(run_dir), ranked, output))
                with _set(ranked):
                    process.start()
                ranks.append(process)
            if requests:  # some ranks had not started yet
                _send(ranks, signal.SIGTERM)
            code, rank = _wait(ranks)
    except _NothingBegan:
        return CONTINUE_LATER, 0
    # The request killed the rank before it could handle signals, or the user repeated the request.
    ended = [128 + signal.SIGTERM] * bool(requests) + [128 + signal.SIGKILL] * (len(requests) > 1)
    return (CONTINUE_LATER, 0) if code in ended else (code, rank)


class _NothingBegan(Exception):
    pass


def forked(
    work: Callable[..., None], given: tuple[Any, ...], environment: dict[str, str], preload: Sequence[str]
) -> tuple[BaseProcess, Connection]:
    """Return a process that runs `work(pipe, environment, *given)` on CPU with a rank's imports, and the pipe's other end.

    The process is forked from a server process that imports the modules `preload` when it starts. If that server runs
    already, `preload` is ignored.
    """
    context = _context(environment, False, preload)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(theirs, environment, *given))
    with _set(environment):
        process.start()
    theirs.close()
    return process, ours


def prepare_forks(environment: dict[str, str], preload: Sequence[str]) -> None:
    """Let the process that `forked` forks from start its imports now, while this process does other work."""
    with _set(environment):
        if _context(environment, False, preload).get_start_method() == "forkserver":
            forkserver.ensure_running()


def _context(environment: dict[str, str], gpus: bool, preload: Sequence[str] = PRELOAD) -> Any:
    """Return the way to start processes: forked from one process that has imported all modules, so that only the first waits.

    A fresh interpreter is used if a rank needs a GPU (forked processes cannot use it), or if that process's libraries have
    read other environment variables.
    """
    read = {name: value for name, value in environment.items() if not name.startswith("PSYCHOCOUNSEL_")}
    if gpus or (_forked_with and _forked_with != [read]):
        return multiprocessing.get_context("spawn")
    if not _forked_with:
        _forked_with.append(read)
        multiprocessing.set_forkserver_preload(list(preload))
    return multiprocessing.get_context("forkserver")


@contextmanager
def _set(environment: dict[str, str]) -> Iterator[None]:
    """Set the environment that a starting process's libraries will read; Ctrl-C is delayed until the block ends."""
    before = dict(os.environ)
    os.environ.update(environment)
    resource_tracker.ensure_running()  # its own start ends such a delay
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.environ.clear()
        os.environ.update(before)


def _send(ranks: list[BaseProcess], number: int) -> None:
    for rank in ranks:
        if rank.exitcode is None and rank.pid:
            with suppress(ProcessLookupError):
                os.kill(rank.pid, number)


def _wait(ranks: list[BaseProcess]) -> tuple[int, int]:
    failed, deadline = (0, 0), float("inf")
    while any(rank.exitcode is None for rank in ranks):
        if failed == (0, 0) and (failed := _first_failure(ranks)) != (0, 0):
            deadline = time.monotonic() + (_GRACE_SECONDS if failed[0] < 128 else _GRACE_AFTER_KILL)
        if time.monotonic() >= deadline:
            _send(ranks, signal.SIGKILL)
        time.sleep(0.05)
    return failed if failed != (0, 0) else _first_failure(ranks)


def _first_failure(ranks: list[BaseProcess]) -> tuple[int, int]:
    """Return exit code and number of the failed rank that caused the end: a rank killed by a signal comes before the others."""
    codes = [(rank.exitcode, number) for number, rank in enumerate(ranks) if rank.exitcode]
    code, number = min(codes, default=(0, 0))
    return (128 - code if code < 0 else code), number


# Environment variables of a job's processes.


def worker_environment(job: Job, attempt: int, rendezvous: str, threads: str, gpu: bool) -> dict[str, str]:
    """Return the variables shared by all processes of a job.

    Each process needs three more: RANK (0 to WORLD_SIZE - 1), LOCAL_RANK (the same on its node) and WORLD_SIZE.
    `rendezvous` is `file:///FILE` on one machine, otherwise `tcp://HOST:PORT` on the node of rank 0.
    """
    code_path = os.pathsep.join([*job.config.code_path, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {
        **cache_directories(job.config.paths.cache),
        "PYTHONPATH": code_path,
        "OMP_NUM_THREADS": threads,
        # Waiting threads sleep, because spinning threads would slow other work on the same cores.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        "PSYCHOCOUNSEL_ATTEMPT": str(attempt),
        "PSYCHOCOUNSEL_RENDEZVOUS": rendezvous,
        "PSYCHOCOUNSEL_DEVICE": "cuda" if gpu else "cpu",
    }
